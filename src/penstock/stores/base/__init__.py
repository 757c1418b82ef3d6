"""What stores do, whatever holds the state: one module of protocols and their values for each kind of store."""

from penstock.stores.base.keys import AmbiguousName as AmbiguousName
from penstock.stores.base.keys import KeyExists as KeyExists
from penstock.stores.base.keys import KeyNotFound as KeyNotFound
from penstock.stores.base.keys import KeyRecord as KeyRecord
from penstock.stores.base.keys import Keys as Keys
from penstock.stores.base.keys import NewKey as NewKey
from penstock.stores.base.keys import StoreUnavailable as StoreUnavailable
from penstock.stores.base.keys import choose as choose
from penstock.stores.base.ledger import AttemptRow as AttemptRow
from penstock.stores.base.ledger import LedgerWriter as LedgerWriter
from penstock.stores.base.ledger import Mark as Mark
from penstock.stores.base.ledger import RequestRow as RequestRow
from penstock.stores.base.usage import Dimension as Dimension
from penstock.stores.base.usage import Ledger as Ledger
from penstock.stores.base.usage import RowQuery as RowQuery
from penstock.stores.base.usage import UsageLine as UsageLine
from penstock.stores.base.usage import UsageQuery as UsageQuery
