"""CDK app of the backend.

CDK runs in Node.js beside Python, and its bridge prints a banner for each version of Node that it thinks too old, too
new or untested. Which versions run is said and checked by `local.prerequisites`; so the bridge is told to be silent
before any module here can start it.
"""

import os

# Of versions past their end of life the bridge wants to be told each one.
os.environ.setdefault("JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION", ",".join(map(str, range(16, 100))))
for _about in ("DEPRECATED", "KNOWN_BROKEN", "UNTESTED"):
    os.environ.setdefault(f"JSII_SILENCE_WARNING_{_about}_NODE_VERSION", "1")
