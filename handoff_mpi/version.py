"""Holds the version of this package.

Every rank sends it when it joins, and reading it from the metadata of installed packages would import forty modules.
"""

VERSION = "0.1.0"
