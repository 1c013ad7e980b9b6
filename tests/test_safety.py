"""Nothing that is merely read can run code, write outside a run folder, or bring a token into the light."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from clkit.cli import app
from clkit.engine.sequence import train
from clkit.errors import ClkitError, ModelError, RecipeError, RunError
from clkit.models import loading
from clkit.models.loading import load_model, save_model
from clkit.models.sections import FullTuning, LoraTuning, ModelSection
from clkit.recipe.recipe import Recipe
from clkit.redaction import redact
from clkit.run.atomic import write_jsonl
from clkit.run.environment import environment
from clkit.run.folder import RunFolder
from clkit.tasks.sections import Name
from clkit.testing.examiner import Answers

TOKEN = "hf_" + "aB3dE6gH9k" * 3 + "Lm4N"
LORA = LoraTuning(method="lora", rank=2)


class Payload:
    """A pickle of it makes a file when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> object:
        return Path.touch, (self.marker,)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "code-was-run"


@pytest.fixture
def model(flat_t5: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(flat_t5, tmp_path / "t5"))


class TestPickles:
    def test_the_payload_works(self, marker: Path):
        pickle.loads(pickle.dumps(Payload(marker)))
        assert marker.exists()

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.bin", "pytorch_model-00001-of-00002.bin"])
    def test_a_model(self, model: Path, marker: Path, name: str):
        (model / "model.safetensors").unlink()
        (model / name).write_bytes(pickle.dumps({"shared.weight": Payload(marker)}))
        with pytest.raises(ModelError, match=rf"t5 has its weights in {name} only, a pickle, .* save_pretrained\(\)"):
            load_model(ModelSection(name=str(model)), FullTuning())
        assert not marker.exists()

    def test_a_harmless_one_too(self, model: Path):
        torch.save({}, model / "pytorch_model.bin")
        (model / "model.safetensors").unlink()
        with pytest.raises(ModelError, match="a pickle"):
            load_model(ModelSection(name=str(model)), FullTuning())

    def test_an_adapter(self, flat_t5: Path, tmp_path: Path, marker: Path):
        section = ModelSection(name=str(flat_t5))
        save_model(load_model(section, LORA), tmp_path)
        load_model(section, LORA, [tmp_path])
        (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
        (tmp_path / "adapter" / "adapter_model.bin").write_bytes(pickle.dumps(Payload(marker)))
        with pytest.raises(ModelError, match=r"has no adapter_model.safetensors; adapter_model.bin is a pickle"):
            load_model(section, LORA, [tmp_path])
        assert not marker.exists()

    def test_an_adapter_beside_a_model_is_not_loaded_with_it(self, model: Path, marker: Path):
        (model / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
        (model / "adapter_model.bin").write_bytes(pickle.dumps(Payload(marker)))
        with pytest.raises(ModelError, match="holds an adapter beside the model"):
            load_model(ModelSection(name=str(model)), FullTuning())
        assert not marker.exists()


class TestWhatIsIncomplete:
    """Transformers and peft fill gaps with random values, and only warn."""

    def test_an_adapter_of_another_kind(self, flat_t5: Path, tmp_path: Path):
        section = ModelSection(name=str(flat_t5))
        save_model(load_model(section, LORA), tmp_path)
        config = tmp_path / "adapter" / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"peft_type": "PROMPT_TUNING"}))
        with pytest.raises(ModelError, match="is of the kind 'PROMPT_TUNING'; clkit saves and reads LORA only"):
            load_model(section, LORA, [tmp_path])

    def test_an_adapter_that_lacks_a_weight(self, flat_t5: Path, tmp_path: Path):
        from safetensors.torch import load_file, save_file

        section = ModelSection(name=str(flat_t5))
        save_model(load_model(section, LORA), tmp_path)
        file = tmp_path / "adapter" / "adapter_model.safetensors"
        weights = load_file(file)
        lost = sorted(weights)[2]
        save_file({name: weight for name, weight in weights.items() if name != lost}, file)
        with pytest.raises(ModelError) as refused:
            load_model(section, LORA, [tmp_path])
        assert str(refused.value).endswith(f"does not fit the model: '{lost}' is in one of them only")


CODE = """
from pathlib import Path
from transformers import T5Config, T5ForConditionalGeneration

Path({marker!r}).touch()

class C(T5Config):
    model_type = "mine"

class M(T5ForConditionalGeneration):
    config_class = C
"""


class TestRemoteCode:
    @pytest.fixture
    def own_code(self, model: Path, marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A model whose classes come with it."""
        config = json.loads((model / "config.json").read_text())
        mapped = {"AutoConfig": "mine.C", "AutoModelForSeq2SeqLM": "mine.M"}
        (model / "config.json").write_text(json.dumps(config | {"model_type": "mine", "auto_map": mapped}))
        (model / "mine.py").write_text(CODE.format(marker=str(marker)))
        # Transformers copies the code to a folder of the user's, and imports it from there.
        for module in ("transformers.dynamic_module_utils", "transformers.utils.hub"):
            monkeypatch.setattr(f"{module}.HF_MODULES_CACHE", str(tmp_path / "modules"))
        monkeypatch.setattr(sys, "path", [*sys.path])
        loading._warn_of_code.cache_clear()
        return model

    def test_is_off(self, own_code: Path, marker: Path, capsys: pytest.CaptureFixture[str]):
        with pytest.raises(ModelError) as refused:
            load_model(ModelSection(name=str(own_code)), FullTuning())
        assert str(refused.value) == (
            f"model.name: the folder {own_code} needs Python code that comes with it (auto_map); read that code, and "
            "if you trust it, set model.trust_remote_code: true"
        )
        assert not marker.exists()
        assert capsys.readouterr() == ("", "")  # above all, no question on the terminal

    def test_runs_where_the_recipe_says_so_with_a_warning(
        self, own_code: Path, marker: Path, capsys: pytest.CaptureFixture[str]
    ):
        loaded = load_model(ModelSection(name=str(own_code), trust_remote_code=True), FullTuning())
        assert type(loaded.model).__name__ == "M"
        assert marker.exists()
        warning = f"warning: model.trust_remote_code: Python code that comes with {own_code} is run\n"
        assert capsys.readouterr().err.startswith(warning)

    def test_is_not_needed_for_a_model_that_transformers_knows(self, model: Path):
        config = json.loads((model / "config.json").read_text())
        mapped = {"AutoConfig": "mine.C", "AutoModelForSeq2SeqLM": "mine.M"}
        (model / "config.json").write_text(json.dumps(config | {"auto_map": mapped}))
        load_model(ModelSection(name=str(model)), FullTuning())

    def test_only_true_in_the_recipe_turns_it_on(self):
        assert ModelSection(name="x").trust_remote_code is False
        with pytest.raises(RecipeError, match=r"model\.trust_remote_code: 1 is not true or false"):
            Recipe.load("quickstart", ["model.trust_remote_code=1"])


class TestNames:
    @given(st.text(min_size=1, max_size=90) | st.from_regex(r"[A-Za-z0-9._-]{1,90}", fullmatch=True))
    @example("..")
    @example("a/../../b")
    @example("a\\b")
    @example("C:")
    @example("a\n")
    @example("con")
    @example("COM1.txt")
    @example("a.")
    def test_a_name_that_is_allowed_stays_in_the_run_folder(self, name: str):
        try:
            TypeAdapter(Name).validate_python(name)
        except ValidationError:
            return
        run = RunFolder(Path("/runs/x"))
        folder = run.stage_folder(1, name)
        assert Path(os.path.normpath(folder)) == Path(f"/runs/x/tasks/01-{name}")
        assert name.partition(".")[0].lower() not in ("con", "prn", "aux", "nul", "com1", "lpt9")
        assert set(name).isdisjoint('/\\:*?"<>| \n\0')
        assert not name.endswith(".")
        assert len(folder.name) < 100

    @pytest.mark.parametrize("name", ["con", "Aux.x", "LPT3", "a.", "..", "a/b", "a b", "", "x" * 81])
    def test_refused(self, name: str):
        with pytest.raises(ValidationError):
            TypeAdapter(Name).validate_python(name)

    @pytest.mark.parametrize("name", ["console", "SST-2", "a..b", "com", "lpt", "x" * 80])
    def test_allowed(self, name: str):
        assert TypeAdapter(Name).validate_python(name) == name


class TestLinks:
    @pytest.mark.parametrize("linked", ["tasks", "log.jsonl", "lock.json", "tasks/01-a"])
    def test_resuming_writes_through_none(self, tmp_path: Path, linked: str):
        """Resuming removes unfinished stages: with `tasks` linked elsewhere, folders of the user's."""
        run = RunFolder.create(tmp_path / "run", "name: x\n", {})
        precious = tmp_path / "precious"
        (precious / "02-thesis").mkdir(parents=True)
        (run.path / linked).parent.mkdir(exist_ok=True)
        (run.path / linked).symlink_to(precious)
        with pytest.raises(RunError, match="is a symbolic link, and clkit writes nothing outside of a run folder"):
            train(Recipe.load("quickstart"), run.path, resume=True)
        assert (precious / "02-thesis").is_dir()
        assert sorted(path.name for path in run.path.iterdir()) == sorted(
            {"env.json", "recipe.yaml", linked.partition("/")[0]}
        )

    def test_odd_predictions_stay_in_their_line(self, tmp_path: Path):
        odd = ["../../x", "a\nb", "\x00", "\u2028", "\x1b[31m", '"}', "…"]
        write_jsonl(tmp_path / "predictions.jsonl", Answers("a", odd, ["x"] * len(odd)).records())
        lines = (tmp_path / "predictions.jsonl").read_text("utf-8").rstrip("\n").split("\n")
        assert [json.loads(line)["prediction"] for line in lines] == odd


class TestTokens:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            (f"401 for token {TOKEN}.", "401 for token ***."),
            ("https://me:secret@hub.example/x", "https://***@hub.example/x"),
            (f"https://{TOKEN}@hub.example/x", "https://***@hub.example/x"),
            ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
            ("https://x.example/f?token=0123456789&v=1", "https://x.example/f?token=***&v=1"),
        ],
    )
    def test_what_looks_like_one_is_hidden(self, text: str, shown: str):
        assert redact(text) == shown

    @pytest.mark.parametrize(
        "text", ["hf_models/t5", "max_tokens=512", "user@example.org", "prompt.max_tokens=64", "https://hf.co/a@main"]
    )
    def test_what_does_not_is_left(self, text: str):
        assert redact(text) == text

    @pytest.mark.parametrize("variable", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY"])
    def test_the_environments_own_are_hidden(self, variable: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv(variable, "not-of-any-form")
        assert redact("refused: not-of-any-form") == "refused: ***"

    def test_switches_and_paths_in_the_environment_are_no_secrets(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
        monkeypatch.setenv("HF_TOKEN_PATH", "/home/me/token")
        assert redact("false: /home/me/token") == "false: /home/me/token"

    def test_no_error_holds_one(self):
        assert TOKEN not in str(ClkitError(f"refused {TOKEN}"))
        error = RecipeError(f"a: {TOKEN}", f"b: {TOKEN}")
        assert TOKEN not in f"{error} {error.problems}"

    @pytest.mark.parametrize("debug", [[], ["--debug"]])
    def test_no_line_and_no_traceback_holds_one(
        self, debug: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        def fail(**_: object) -> None:
            raise ConnectionError(f"401: https://me:{TOKEN}@hub.example refuses {TOKEN}")

        monkeypatch.setattr(app, "app", fail)
        monkeypatch.setattr(sys, "argv", ["clkit", "train", *debug])
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        if debug:
            with pytest.raises(ConnectionError) as raised:
                app.main()
            sys.excepthook(raised.type, raised.value, raised.tb)
        else:
            with pytest.raises(SystemExit):
                app.main()
        printed = capsys.readouterr().err
        assert "401: https://***@hub.example refuses ***" in printed
        assert ("Traceback" in printed) == bool(debug)

    def test_the_record_of_a_run_holds_none(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("HF_TOKEN", "not-of-any-form")
        found = environment(42, ["clkit", f"model.name={TOKEN}", "x=not-of-any-form", "y=https://me:pw@h/x", "\udcff"])
        assert found["command"] == ["clkit", "model.name=***", "x=***", "y=https://***@h/x", "\\udcff"]
        json.dumps(found, ensure_ascii=False).encode()

    def test_a_hub_error_of_a_model(self, monkeypatch: pytest.MonkeyPatch):
        def refuse(*_: object, **__: object) -> None:
            raise OSError(f"403: https://hub.example/someone/t5?token={TOKEN} is gated")

        monkeypatch.setattr(loading.AutoConfig, "from_pretrained", refuse)
        with pytest.raises(ModelError) as refused:
            load_model(ModelSection(name="someone/t5"), FullTuning())
        assert TOKEN not in str(refused.value)
        assert "is gated" in str(refused.value)

    def test_control_characters_do_not_reach_the_terminal(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        monkeypatch.setattr(sys, "argv", ["clkit", "train", "quickstart", "\x1b]0;owned\x07=3"])
        with pytest.raises(SystemExit):
            app.main()
        assert r"\x1b]0;owned\x07" in capsys.readouterr().err
