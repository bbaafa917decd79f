"""The rows of an optimisation: what trains, what stops the training, what is diagnosed, and a last block of time that only judges remedies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recspect.diagnosis.batch import Batch
from recspect.errors import DataError, UsageError
from recspect.schema import Schema

FEWEST = 1000
"""Rows that the block for proofs needs, and the block for the diagnosis."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Four tables of the same columns.

    Args:
        train, validation: What trains, and what it stops by.
        diagnosis: Held-out rows that findings come from, that calibrations are fitted on, and that a newer training may read.
        proof: Rows that judge remedies and serve nothing else.
    """

    train: Batch
    validation: Batch
    diagnosis: Batch
    proof: Batch

    @classmethod
    def cut(cls, tables: tuple[Batch, Batch, Batch], schema: Schema, *, proof: Batch | None = None, share: float = 0.5) -> Parts:
        """Cut the block for proofs off the held-out rows: the last of them in time, or at random where there is no time.

        Args:
            tables: Training, validation and held-out rows.
            schema: Names the time.
            proof: Rows that nothing was ever decided on, such as those of the newest day; all held-out rows are then for the diagnosis.
            share: Of the held-out rows, where `proof` is None.

        Raises:
            UsageError: A share that leaves nothing.
            DataError: Too few rows.
        """
        train, validation, held_out = tables
        if not 0 < share < 1:
            raise UsageError(f"the share of held-out rows for proofs is {share}, expected between 0 and 1")
        if proof is None:
            order = np.argsort(held_out.numbers(schema.time), kind="stable") if schema.time is not None else np.random.default_rng(0).permutation(held_out.rows)
            first = round(held_out.rows * (1 - share))
            held_out, proof = held_out.take(order[:first]), held_out.take(order[first:])
        for rows, what in ((held_out, "the diagnosis"), (proof, "proofs")):
            if rows.rows < FEWEST:
                raise DataError(f"{rows.rows:,} held-out rows are left for {what}, expected {FEWEST:,} or more", hint="hold out more rows, or give a file of new ones: --eval FILE")
        return cls(train=train, validation=validation, diagnosis=held_out, proof=proof)

    def fingerprint(self, schema: Schema) -> str:
        """32 hexadecimal digits of the rows that training and diagnosis read."""
        from recspect.training.rows import fingerprint

        marks = "".join(fingerprint(rows, schema) for rows in (self.train, self.validation, self.diagnosis))
        return hashlib.blake2b(marks.encode(), digest_size=16).hexdigest()

    def proof_fingerprint(self, schema: Schema) -> str:
        """32 hexadecimal digits of the rows that judge."""
        from recspect.training.rows import fingerprint

        return fingerprint(self.proof, schema)

    def first_proof_time(self, schema: Schema) -> float | None:
        """When the rows that judge begin; None without a time."""
        return None if schema.time is None else float(self.proof.numbers(schema.time).min())

    def replaced(self, **tables: Any) -> Parts:
        """The parts with other tables."""
        return replace(self, **tables)


__all__ = ["FEWEST", "Parts"]
