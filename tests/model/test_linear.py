import pytest
import torch
import torch.nn.functional as F

from openqwq.model.linear import Linear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("tokens", "inner", "outer"), [(1, 3, 5), (7, 16, 8), (65, 31, 33)]
)
def test_values_and_gradients_are_those_of_an_ordinary_linear_layer(
    tokens: int, inner: int, outer: int, bias: bool
) -> None:
    torch.manual_seed(0)
    layer = Linear(inner, outer, bias=bias)
    x = torch.randn(tokens, inner, requires_grad=True)
    parameters = [x, *layer.parameters()]
    gradient = torch.randn(tokens, outer)
    found = layer(x)
    expected = F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, parameters, gradient),
        torch.autograd.grad(expected, parameters, gradient),
    )


def test_double_precision_passes_the_gradient_check() -> None:
    layer = Linear(3, 4, dtype=torch.float64)
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_an_input_that_needs_no_gradient_gets_none() -> None:
    layer = Linear(3, 4)
    layer(torch.ones(2, 3)).sum().backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, torch.full((4, 3), 2.0))
