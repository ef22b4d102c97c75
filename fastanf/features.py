"""What a network sees of an extremely noisy environment: D real features among F, the others noise.

Axes: L lanes, B rows (a minibatch, or E environments), D real features, F features with noise, P
permutations so far. Inputs of networks are feature-major, [L, F, B]. Source: Grooten et al. 2023,
arXiv 2302.06548, Sec. 3 and 5.3.

Noise is never stored: feature i of row r is a pure function of (lane seed, stream, r, i), see
kernels/noise.py.
 * `per_call`: every call of a network draws fresh rows (the published code's behaviour);
 * `per_step`: the row is the observation's id in the replay, so a replayed observation shows the
   noise that was observed, and all networks see the same.

In the transfer setting all F features change places together from time to time. Networks stay
where they are.

Where observations are normalised (observation_statistics.py), it is by what was observed at each
place, noise included, and whatever feature is there at the time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastanf import kernels
from fastanf.kernels.layer_input import LayerInput, Noise
from fastanf.observation_statistics import ObservationStatistics
from fastanf.rng import LaneRng, Stream


class NoisyFeatures:
    """The features of all lanes of a block.

    Args:
        rng: random numbers of the lanes, whose keys draw the noise.
        num_real: D.
        num_features: F >= D.
        std: [L] standard deviation of Gaussian noise, scale of empirical noise.
        redraw: "per_call" or "per_step".
        quantiles: [D, K] marginal quantiles of the real features (empirical noise), or None
            (Gaussian).
        permute_replay: True shows old observations in the newest order, False in the order they
            were observed in.
        normalize: bring all features to mean 0 and variance 1 of what was observed.
    """

    def __init__(
        self,
        rng: LaneRng,
        num_real: int,
        num_features: int,
        std: Tensor,
        redraw: str = "per_call",
        quantiles: Tensor | None = None,
        permute_replay: bool = True,
        normalize: bool = False,
    ):
        self.rng = rng
        self.num_real = num_real
        self.num_features = num_features
        self.std = std
        self.redraws_per_call = redraw == "per_call"
        self.quantiles = quantiles
        self.permute_replay = permute_replay
        self._counts: dict[int, Tensor] = {}
        self.layout_version = 0
        """Rises with every new tensor of places: who holds their addresses (a CUDA graph) must take
        them anew."""
        L, device = rng.key.shape[0], rng.key.device
        # Place f shows canonical feature source[l, p, f] from time since[l, p] on; None while no
        # lane has permuted.
        self.source: Tensor | None = None
        self.since = torch.zeros(L, 1, dtype=torch.int64, device=device)
        self.statistics = ObservationStatistics(L, num_features, device) if normalize else None

    def draw(
        self, obs: Tensor, row: Tensor, stream: Stream, time: Tensor | None = None
    ) -> LayerInput:
        """Observations among their noise, which is drawn where it is used.

        Args:
            obs: [L, B, D] real features.
            row: [L, B] int64 row ids of the noise.
            stream: the random stream that the row ids belong to.
            time: [L, B] int64 when each observation was made, for the order it was observed in;
                None for the newest order.

        Returns:
            [L, F, B] float32. Where features have changed places, or are normalised, they are
            written out.
        """
        x = self._shown(obs, row, stream, time)
        if self.statistics is None:
            return x
        return LayerInput(self.statistics.normalised(x.written_out))

    def observe_(self, obs: Tensor, row: Tensor, stream: Stream) -> None:
        """Count what is about to be acted upon, in the newest order, in the statistics.

        Args:
            obs: [L, E, D] real features.
            row: [L, E] int64, as `draw` takes them.
            stream: likewise.
        """
        if self.statistics is not None:
            self.statistics.observe_(self._shown(obs, row, stream, None).written_out)

    def _shown(self, obs: Tensor, row: Tensor, stream: Stream, time: Tensor | None) -> LayerInput:
        """What the task shows, as `draw`; nothing is normalised."""
        num_noise = self.num_features - self.num_real
        noise = None
        if num_noise:
            row = row if kernels.is_triton(row) else row.contiguous()
            noise = Noise(self.rng.key, row, stream, num_noise, self.std, self.quantiles)
        x = LayerInput(obs.transpose(1, 2), noise)
        if self.source is None:
            return x
        order = self._source_of(time, x.num_columns)
        return LayerInput(torch.gather(x.written_out, 1, order))

    def view(
        self,
        obs: Tensor,
        obs_id: Tensor,
        call: int | Tensor,
        envs_per_lane: int = 1,
        num_calls: int = 4,
    ) -> FeatureView:
        """The inputs that the networks draw of one minibatch during one update.

        Args:
            obs: [L, B, D] real features.
            obs_id: [L, B] int64 ids of the observations (replay.py).
            call: number of the first network call, unique over the run; or int64 on the device.
            envs_per_lane: E, to read an observation's time from its id.
            num_calls: how many there may be.
        """
        time = None if self.permute_replay else obs_id // (2 * envs_per_lane)
        return FeatureView(self, obs, obs_id, call, num_calls, time)

    def count_to(self, n: int) -> Tensor:
        """[n] 0 to n - 1 on the device, the same tensor each time."""
        if n not in self._counts:
            self._counts[n] = torch.arange(n, device=self.std.device)
        return self._counts[n]

    def real_columns(self) -> Tensor:
        """[L, F] bool: which features are real in the newest order."""
        if self.source is None:
            is_real = torch.arange(self.num_features, device=self.std.device) < self.num_real
            return is_real.expand(self.std.shape[0], -1)
        return self.source[:, -1] < self.num_real

    def places(self) -> Tensor:
        """[L, F] int64: the place at which each feature stands in the newest order, the D real
        features first.
        """
        if self.source is None:
            return self.count_to(self.num_features).expand(self.std.shape[0], -1)
        return self.source[:, -1].argsort(1)

    def permute_(self, lanes: Tensor, time: int) -> None:
        """Let the features of some lanes change places from `time` on.

        Args:
            lanes: [L] bool, which lanes do.
            time: environment step per environment of the first observation in the new order.
        """
        L = self.since.shape[0]
        identity = torch.arange(self.num_features, device=self.since.device).expand(L, 1, -1)
        source = identity if self.source is None else self.source
        order = self.rng.permutation(Stream.PERMUTATION, time, self.num_features)  # [L, F]
        newest = torch.where(lanes.unsqueeze(1), order, source[:, -1])
        self.source = torch.cat([source, newest.unsqueeze(1)], 1)
        self.since = torch.cat([self.since, torch.full_like(self.since[:, :1], time)], 1)
        self.layout_version += 1

    def _source_of(self, time: Tensor | None, num_rows: int) -> Tensor:
        assert self.source is not None
        if time is None:
            return self.source[:, -1].unsqueeze(-1).expand(-1, -1, num_rows)
        epoch = torch.searchsorted(self.since, time.contiguous(), right=True) - 1  # [L, B]
        lane = torch.arange(time.shape[0], device=time.device).unsqueeze(1)
        return self.source[lane, epoch].transpose(1, 2)

    def state_dict(self) -> dict[str, Tensor]:
        """The permutations so far, and the statistics of what was observed."""
        state = {} if self.source is None else {"source": self.source, "since": self.since}
        return state if self.statistics is None else state | self.statistics.state_dict()

    def load_state_dict_(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        if "source" in state:
            self.source, self.since = (
                state[name].to(self.since.device, copy=True) for name in ("source", "since")
            )
        else:
            self.source, self.since = None, torch.zeros_like(self.since[:, :1])
        if self.statistics is not None:
            self.statistics.load_state_dict_(state)
        self.layout_version += 1


class FeatureView:
    """Network inputs of one minibatch: a fresh draw at every call, or the same noise each time
    (`per_step`).
    """

    def __init__(
        self,
        features: NoisyFeatures,
        obs: Tensor,
        obs_id: Tensor,
        call: int | Tensor,
        num_calls: int,
        time: Tensor | None,
    ):
        self._features, self._obs, self._obs_id, self._time = features, obs, obs_id, time
        self._drawn: LayerInput | None = None
        if features.redraws_per_call:
            B = obs.shape[1]
            self._rows_of_calls = iter((call * B + features.count_to(num_calls * B)).split(B))

    def draw(self) -> LayerInput:
        """[L, F, B] features for one network call."""
        features, obs = self._features, self._obs
        if features.redraws_per_call:
            rows = next(self._rows_of_calls).expand(obs.shape[0], -1)
            return features.draw(obs, rows, Stream.LEARN_FEATURES, self._time)
        if self._drawn is None:
            self._drawn = features.draw(obs, self._obs_id, Stream.STEP_FEATURES, self._time)
        return self._drawn
