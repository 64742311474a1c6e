"""Services that follow their load: whoever measures it tells it, and as many replicas are wanted as it asks for."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from ergosphere.control import quotas
from ergosphere.control.ledger.ledger import Ledger
from ergosphere.core.policy.services import Scaling, Service, scaled
from ergosphere.wire.policy import LoadReport, ScaleResult


@dataclass(slots=True)
class Loads:
    """Remembers since when each service could do with fewer: up at once, down late. A new server begins anew."""

    ledger: Ledger
    _before: dict[str, Scaling] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def told(self, name: str, load: LoadReport) -> ScaleResult:
        """Want what this load asks for, within what was submitted. Raises NotFound."""
        least, most, wanted = quotas.replicas_of(self.ledger, name)
        service = Service(least, most, load.latency_s, load.service_s, load.concurrency)
        with self._lock:
            before = self._before.get(name, Scaling(wanted))
            if before.wanted != wanted:  # somebody has scaled it by hand
                before = Scaling(wanted)
            after = scaled(before, service, load.requests_per_s, self.ledger.clock.now())
            self._before[name] = after
        return quotas.scale(self.ledger, name, after.wanted)
