"""Attention Fusion: each modality averaged over time, then weighed against the other.

Owns the network of Fayek and Kumar (IJCAI 2020) as the TCaF paper adapts it: TCaF's encoders, the
mean over a clip's tokens, one projection per modality into the joint space, and attention over the
modalities,

    theta_o = sum_m alpha_m theta_m,    alpha = softmax(Lin([phi_a; phi_v]))

It is trained with TCaF's objective, optimiser and settings; of the section model it reads sizes,
modalities and dropouts, not those of the transformer.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tcaf.data.batches import FeatureBatch
from tcaf.execution.devices import moved
from tcaf.systems.joint_space import JointSpaceModel, TCAFConfig


class AttentionFusion(JointSpaceModel):
    """Averaged modalities, weighed per clip.

    Args:
        config: sizes and settings, as TCaF's.
    """

    def __init__(self, config: TCAFConfig) -> None:
        super().__init__(config)
        self.projections = nn.ModuleDict({m: self.new_projection() for m in self.modalities})
        count = len(self.modalities)
        self.attention = nn.Linear(count * config.token_dim, count)
        self.add_decoders_and_text()

    def embed_video(self, batch: FeatureBatch) -> Float[Tensor, "batch joint_dim"]:
        """Returns theta_o, the weighted sum of both modalities' embeddings."""
        tokens = {m: self.encoded(batch, m).mean() for m in self.modalities}
        logits = self.attention(torch.cat(list(tokens.values()), dim=1))
        there = torch.stack([batch.modality(m).lens > 0 for m in self.modalities], dim=1)
        # A clip's only modality has all the weight.
        weights = logits.masked_fill(~moved(there, logits.device), -torch.inf).softmax(dim=1)
        embeddings = torch.stack([self.projections[m](tokens[m]) for m in self.modalities], dim=1)
        return (weights[:, :, None] * embeddings).sum(dim=1)
