"""Modules that assert on behalf of several test modules tell what they found, as test modules do."""

import pytest

pytest.register_assert_rewrite("contract", "movielens")
