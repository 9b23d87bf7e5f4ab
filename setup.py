"""What pyproject.toml cannot say: every package that is found, and configs/ as one more inside the wheel, ldm/configs."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["ldm*"], exclude=["*.weights"]), "ldm.configs"],
    package_dir={"ldm.configs": "configs"},
    package_data={
        "ldm": ["py.typed"],
        "ldm.configs": ["*/*.yaml"],
        "ldm.metrics": ["weights/*.safetensors"],
    },
)
