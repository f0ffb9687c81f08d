"""What we translate ourselves is as exact by onnxruntime as in torch."""

import onnxruntime
import torch
from torch import nn

from export.translations import TRANSLATIONS


def test_group_norm_of_a_large_map():
    """Half a million numbers in a group, with a mean: InstanceNormalization is off by 4e-5 of the
    largest value."""
    x = 2 * torch.randn(2, 64, 512, 512, generator=torch.Generator().manual_seed(0)) + 1
    norm = nn.GroupNorm(8, 64, eps=1e-6)
    with torch.no_grad():
        norm.weight.normal_(generator=torch.Generator().manual_seed(1))
        norm.bias.normal_(generator=torch.Generator().manual_seed(2))
        axes = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
        program = torch.export.export(norm, (x,), dynamic_shapes=(axes,), strict=False)
        exported = torch.onnx.export(
            program, dynamo=True, opset_version=20, custom_translation_table=TRANSLATIONS[20]
        )
        assert exported is not None
        session = onnxruntime.InferenceSession(exported.model_proto.SerializeToString())
        for part in (x, x[:1, :, :160, :96]):
            (got,) = session.run(None, {session.get_inputs()[0].name: part.numpy()})
            expected = nn.functional.group_norm(
                part.double(), 8, norm.weight.double(), norm.bias.double(), 1e-6
            )
            assert (torch.from_numpy(got) - expected).abs().max() <= 1e-6 * expected.abs().max()
