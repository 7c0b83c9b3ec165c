"""Logs: the numbered events of a backend, kept for a while, and the operations that they came of."""

from bbio.log.consumers import ConsumerState, Ledger, Letter, MemoryLedger, Step
from bbio.log.log import Log
from bbio.log.memory import MemoryLog

__all__ = ["ConsumerState", "Ledger", "Letter", "Log", "MemoryLedger", "MemoryLog", "Step"]
