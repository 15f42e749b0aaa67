"""For zc.buildout, which asks for it to develop a package; all that there is to say is in pyproject.toml."""
# SPDX-License-Identifier: ZPL-2.1
from setuptools import setup


setup()
