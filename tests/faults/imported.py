"""All that the commands import, which the server of `commands` does before it forks."""

import numba
import torch._dynamo  # noqa: F401 (an optimiser of torch does so)

import nvae_bio.audit.step
import nvae_bio.cli
import nvae_bio.embed
import nvae_bio.evaluate
import nvae_bio.factors.null
import nvae_bio.factors.power
import nvae_bio.factors.step
import nvae_bio.generate
import nvae_bio.plot
import nvae_bio.prepare
import nvae_bio.simulate
import nvae_bio.suggest
import nvae_bio.train  # noqa: F401

numba.njit(lambda x: x + 1)(1.0)  # what it sets up once a process
