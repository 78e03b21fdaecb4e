"""The version of this package, kept here alone.

Every rank says it as it joins, and reading it from the metadata of installed packages imports forty modules.
"""

VERSION = "0.1.0"
