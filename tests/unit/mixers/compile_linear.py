"""Linear mixers compile in one graph and compute what they compute without; run by a test."""

import torch

from unit.mixers.linear_cases import HIDDEN, build, context

TOKENS = 9


def main() -> None:
    """Raise if a mixer does not."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name in ("gated_delta_paper", "lightning_gated"):
        mixer = build(name)
        hidden = torch.randn(2, TOKENS, HIDDEN, dtype=torch.float64)
        rows = context(torch.arange(TOKENS).expand(2, -1))
        torch.compiler.reset()
        compiled = torch.compile(mixer, fullgraph=True, backend="eager")
        out, _ = compiled(hidden, rows, None)
        found = torch.autograd.grad(out.square().sum(), list(mixer.parameters()))
        expected, _ = mixer(hidden, rows, None)
        theirs = torch.autograd.grad(expected.square().sum(), list(mixer.parameters()))
        for mine, other in zip((out, *found), (expected, *theirs), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)
        with torch.no_grad():
            state = mixer.init_state(2, capacity=None, device=hidden.device, dtype=hidden.dtype)
            first = context(torch.zeros(2, 1, dtype=torch.long))
            out, _ = compiled(hidden[:, :1], first, state)
            torch.testing.assert_close(out, mixer(hidden[:, :1], first, state)[0])


if __name__ == "__main__":
    main()
