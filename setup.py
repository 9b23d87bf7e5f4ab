"""What pyproject.toml cannot say: all packages found, and configs/ as ldm/configs in the wheel."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[
        *find_namespace_packages(include=["ldm*"], exclude=["*.weights", "*.embedded"]),
        "ldm.configs",
    ],
    package_dir={"ldm.configs": "configs"},
    package_data={
        "ldm": ["py.typed"],
        "ldm.configs": ["*/*.yaml"],
        "ldm.metrics": ["weights/*.safetensors"],
        "ldm.pictures": ["embedded/*.gz"],
    },
)
