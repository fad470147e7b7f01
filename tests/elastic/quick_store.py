"""The store pod's work with another timing; the argument is a ``Timing``, as JSON."""

import json
import sys

from pangu_core.entry import process
from pangu_core.entry.store_pod import serve
from pangu_core.launch.stop import StopRequest
from pangu_core.rendezvous.membership import Timing

timing = Timing(**json.loads(sys.argv[1]))
stop = StopRequest.installed()
sys.exit(process.run("store", lambda: serve(stop, timing=timing)))
