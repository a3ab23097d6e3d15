"""`python -m karma.core.runtime module:app`, started by a function's bootstrap."""

import os
import sys

from karma.core.runtime.serve import serve_forever

serve_forever(sys.argv[1], os.environ["AWS_LAMBDA_RUNTIME_API"])
