import pytest
import torch

from easytune_lib.models.blocks import (
    Block,
    TimeEmbedding,
    Transformer,
    patches,
    unpatch,
    with_tokens,
)


@pytest.fixture(autouse=True)
def weights_of_their_own():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_patches_join_neighbouring_frames_and_come_apart_again():
    x = torch.arange(2 * 6 * 3.0).view(2, 6, 3)
    tokens = patches(x, 2)
    assert tokens.shape == (2, 3, 6)
    assert torch.equal(tokens[0, 1], torch.cat([x[0, 2], x[0, 3]]))
    assert torch.equal(unpatch(tokens, 2), x)
    with pytest.raises(ValueError, match="6 frames do not divide into tokens of 4"):
        patches(x, 4)


def test_tokens_in_front_are_always_real():
    keep = torch.tensor([[True, False], [True, True]])
    assert with_tokens(keep, 2).tolist() == [[True, True, True, False], [True] * 4]


@pytest.mark.parametrize("skips", [False, True])
def test_padding_is_never_attended_to(skips):
    net = Transformer(16, 3, skips=skips).eval()
    x = torch.randn(2, 5, 16)
    keep = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    got = net(x, keep)
    torch.testing.assert_close(got[:1, :3], net(x[:1, :3], None))
    torch.testing.assert_close(got[1:], net(x[1:], None))
    moved = x + 9.0 * ~keep[..., None]
    torch.testing.assert_close(net(moved, keep)[keep], got[keep])


def test_a_block_is_attention_as_pytorch_has_it():
    block = Block(16, heads=4).eval()
    theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True).eval()
    theirs.load_state_dict({
        "in_proj_weight": block.qkv.weight, "in_proj_bias": block.qkv.bias,
        "out_proj.weight": block.out.weight, "out_proj.bias": block.out.bias,
    })  # fmt: skip
    x = torch.randn(2, 5, 16)
    keep = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    read = block.norm_attention(x)
    after = x + theirs(read, read, read, key_padding_mask=~keep, need_weights=False)[0]
    want = after + block.ff(block.norm_ff(after))
    torch.testing.assert_close(block(x, keep), want)


def test_long_skips_join_first_and_last_blocks():
    with pytest.raises(ValueError, match="odd number of layers, got 2"):
        Transformer(16, 2, skips=True)
    net = Transformer(16, 5, skips=True)
    assert len(net.merge) == 2 and len(Transformer(16, 5).merge) == 0
    joined = []
    for layer in net.merge:
        layer.register_forward_hook(lambda _, inputs, __: joined.append(inputs[0][..., 16:]))
    outputs = []
    for block in net.blocks:
        block.register_forward_hook(lambda _, __, output: outputs.append(output))
    net(torch.randn(1, 4, 16), None)
    assert torch.equal(joined[0], outputs[1]) and torch.equal(joined[1], outputs[0])


def test_dropout_acts_in_training_alone():
    net, x = Block(16, dropout=0.5), torch.randn(1, 4, 16)
    assert not torch.equal(net(x, None), net(x, None))
    net.eval()
    assert torch.equal(net(x, None), net(x, None))


def test_time_embedding_tells_all_steps_apart():
    net = TimeEmbedding(32)
    out = net(torch.arange(1000))
    assert out.shape == (1000, 32)
    assert len(torch.unique(out, dim=0)) == 1000
