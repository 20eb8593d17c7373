"""What the compiler refuses."""

from rft_jax.plan.ahead import _refused_bytes


def test_the_bytes_of_a_refusal_are_read():
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (17.50G) exceeds available HBM (15.75G)."
    )
    assert _refused_bytes(message) == 17.5 * 2**30
    assert _refused_bytes("INTERNAL: something else") is None
