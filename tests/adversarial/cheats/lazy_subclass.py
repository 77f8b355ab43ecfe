"""Returns a tensor subclass that computes when somebody looks at it."""
# expect: status=RUNTIME_ERROR foul=not_a_tensor definition=silu
import torch


class Lazy(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        args = [a.materialise() if isinstance(a, Lazy) else a for a in args]
        return function(*args, **(kwargs or {}))

    def materialise(self):
        x = self.__dict__["owed"]
        d = x.shape[-1] // 2
        return torch.nn.functional.silu(x[:, :d]) * x[:, d:]


def run(x):
    out = torch.empty(x.shape[0], x.shape[1] // 2).as_subclass(Lazy)
    out.__dict__["owed"] = x
    return out
