"""Dynamic sampling: the first groups with something to teach, whatever comes between them."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rft_jax.learn.dynamic_sampling import sample_groups

R, B = 4, 3
PLACE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


@jax.jit
def found_of(unequal_RB):
    def sample(index):
        groups = {"place_B": index * B + jnp.arange(B), "text_BL": jnp.full((B, 2), index)}
        return groups, unequal_RB[index], {"seen": unequal_RB[index].sum()}

    return sample_groups(sample, B, R, PLACE)


@given(st.lists(st.booleans(), min_size=R * B, max_size=R * B))
def test_the_first_unequal_groups_are_kept_and_no_more_are_sampled(flags):
    found = jax.device_get(found_of(np.reshape(flags, (R, B))))
    wanted = np.flatnonzero(flags)[:B]
    full = len(wanted) == B
    rounds = wanted[-1] // B + 1 if full else R
    assert found.rounds == rounds
    assert found.consumed == (wanted[-1] + 1 if full else R * B)
    assert found.sums["seen"] == sum(flags[: rounds * B])
    kept = found.groups["place_B"]
    np.testing.assert_array_equal(kept[: len(wanted)], wanted)
    assert len(set(kept)) == B and (kept < rounds * B).all()
    assert not any(flags[place] for place in kept[len(wanted) :])
    np.testing.assert_array_equal(found.groups["text_BL"], np.repeat(kept[:, None] // B, 2, axis=1))
