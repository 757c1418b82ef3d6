"""Which targets may answer a request, in which order, and why others may not: pure and synchronous."""

from penstock.gateway.routing.routes import Routes as Routes
from penstock.gateway.routing.routes import allowed as allowed
from penstock.gateway.routing.routes import not_found as not_found
from penstock.gateway.routing.routes import shortened as shortened
from penstock.gateway.routing.routes import unavailable as unavailable
