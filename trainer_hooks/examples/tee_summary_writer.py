from trainer_hooks import tee

tee.install(name="teed")  # all the rest is a script that logs to TensorBoard
import torch  # noqa: E402
from torch.utils.tensorboard import SummaryWriter  # noqa: E402

weight = torch.ones(1, requires_grad=True)
with SummaryWriter("runs") as writer:
    for step in range(8):
        loss = (weight * 2 - 1).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        weight.data -= 0.1 * weight.grad if weight.grad is not None else 0
        weight.grad = None
        writer.add_scalar("success_rate", 1 - loss.item(), step)
