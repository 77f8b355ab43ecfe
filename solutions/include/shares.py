"""Decode attention in shares of the keys: few requests would leave most of a device idle if each were one program's.

Each share writes a result of its own and its log-sum, in float32; `join` weights them. How many shares there are
follows from shapes alone, so that nothing is read back to the host and a graph may hold the launches.
"""

import functools

import torch
import triton
import triton.language as tl

MOST_SHARES = 64


@triton.jit
def _join(
    part_ptr, part_lse_ptr, out_ptr, lse_ptr, shares, heads, d, out_row, out_head, lse_row,
    SHARES: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    request = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    s = tl.arange(0, SHARES)
    at = request * shares * heads + s * heads + head
    lse = tl.load(part_lse_ptr + at, mask=s < shares, other=-float("inf"))
    top = tl.max(lse, axis=0)
    base = tl.where(top == -float("inf"), 0.0, top)
    total = tl.sum(tl.exp2(lse - base), axis=0)
    i = tl.arange(0, D)
    inside = i < d
    result = tl.zeros((D,), tl.float32)
    for share in range(shares):
        place = request * shares * heads + share * heads + head
        weight = tl.exp2(tl.load(part_lse_ptr + place) - base)
        result += weight * tl.load(part_ptr + place * d + i, mask=inside, other=0.0)
    some = total > 0
    result = result / tl.where(some, total, 1.0)
    tl.store(out_ptr + request * out_row + head * out_head + i, result.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(lse_ptr + request * lse_row + head, tl.where(some, base + tl.log2(tl.where(some, total, 1.0)), top))


@functools.cache
def _processors(device):
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


class Shares:
    """Where the shares' results of output [batch, heads, d] and lse [batch, heads] go: there at once if one is all.

    Args:
        programs: how many there are of one share.
        most_keys: that a request may have, as far as shapes tell.
        least_keys: for which a share of its own pays.
    """

    def __init__(self, output, lse, programs, most_keys, least_keys):
        batch, heads, d = output.shape
        self.output, self.lse = output, lse
        filling = _processors(output.device) // max(1, programs)
        self.count = max(1, min(filling, triton.cdiv(most_keys, least_keys), MOST_SHARES))
        if self.count == 1:
            self.parts, self.part_lse = output, lse
            #: Of a row, a head and a share of the parts; of a row and a share of their log-sums.
            self.strides = output.stride(0), output.stride(1), 0, lse.stride(0), 0
        else:
            self.parts = torch.empty((batch, self.count, heads, d), dtype=torch.float32, device=output.device)
            self.part_lse = torch.empty((batch, self.count, heads), dtype=torch.float32, device=output.device)
            self.strides = self.count * heads * d, d, heads * d, self.count * heads, heads

    def join(self):
        if self.count == 1:
            return
        batch, heads, d = self.output.shape
        _join[(batch, heads)](
            self.parts, self.part_lse, self.output, self.lse, self.count, heads, d,
            self.output.stride(0), self.output.stride(1), self.lse.stride(0),
            SHARES=triton.next_power_of_2(self.count), D=max(16, triton.next_power_of_2(d)), num_warps=4,
        )  # fmt: skip
