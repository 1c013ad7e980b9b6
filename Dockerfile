# clkit as the README installs it, with the versions that it is tested with:
#   docker build -t clkit .
#   docker run --rm -v "$PWD/runs:/work/runs" clkit train quickstart          with a GPU: docker run --gpus all ...
FROM python:3.11-slim
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY .ci/constraints.txt .ci/
COPY clkit clkit
COPY recipes recipes
RUN pip install --no-cache-dir -c .ci/constraints.txt .
WORKDIR /work
ENTRYPOINT ["clkit"]
