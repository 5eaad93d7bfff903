"""python -m week6"""

import sys

from week6.cli import main

sys.exit(main())
