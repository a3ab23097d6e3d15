"""Entry point of functions that stream, `python -m karma.core.runtime module:app`, started by their bootstrap."""

import os
import sys

from karma.core.runtime.serve import serve_forever

serve_forever(sys.argv[1], os.environ["AWS_LAMBDA_RUNTIME_API"])
