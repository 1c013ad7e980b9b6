"""One file per family of models and objective; `clkit.models.registry` finds them."""
