"""Calls upstreams: `Upstreams.open` finds an answer for a request, `Lanes` is what is remembered of the targets."""

from penstock.gateway.upstream.answer import Answer as Answer
from penstock.gateway.upstream.answer import Output as Output
from penstock.gateway.upstream.answer import note as note
from penstock.gateway.upstream.lanes import Entry as Entry
from penstock.gateway.upstream.lanes import Lane as Lane
from penstock.gateway.upstream.lanes import Lanes as Lanes
from penstock.gateway.upstream.loop import Upstreams as Upstreams
from penstock.gateway.upstream.probing import Prober as Prober
