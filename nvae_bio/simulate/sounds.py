"""Tones of instruments, synthesised, and the table of audio features that is computed from sounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import SoundsSimulation
from nvae_bio.simulate.planted import amounts, draw_activities, named, provenance, stream, truth_record

RATE = 16_000  # samples a second
SECONDS = 0.8
PITCH = 220.0  # Hz, of a tone at activity 0 of everything
LOUDNESS, NOISE = -25.0, -40.0  # decibels: of a tone below full scale, and of its noise below the tone
VIBRATO, VIBRATO_RATE = 0.15, 5.5  # semitones, and Hz
N_MFCC = 20
FRAME, HOP = 1024, 256  # samples: a frame, and from one to the next
LOWEST, HIGHEST = 80.0, 1000.0  # Hz, of a fundamental that is looked for
CHUNK = 64  # sounds at a time


@dataclass(frozen=True)
class Timbre:
    """What an instrument sounds like.

    Attributes:
        tilt: decibels an octave by which its partials fall.
        even: level of even partials beside odd ones, decibels.
        formant: centre of the octave that it favours, Hz.
        resonance: by how much it does, decibels.
        attack: time to its full level, s.
    """

    tilt: float
    even: float
    formant: float
    resonance: float
    attack: float


def draw_timbre(name: str, seed: int) -> Timbre:
    """The timbre of an instrument: of its name and the seed alone."""
    rng = stream(seed, f"timbre of {name}")
    return Timbre(
        tilt=float(rng.uniform(-12, -5)),
        even=float(rng.uniform(-20, 0)),
        formant=float(np.exp2(rng.uniform(9, 11.5))),  # 512 to 2,896 Hz
        resonance=float(rng.uniform(3, 12)),
        attack=float(np.exp(rng.uniform(np.log(0.01), np.log(0.1)))),
    )


def synthesise(timbre: Timbre, changes: dict[str, float], rng: np.random.Generator) -> np.ndarray:
    """One tone: partials below the Nyquist frequency, with vibrato, an attack, and white noise.

    Args:
        timbre: the instrument.
        changes: activity × amount of what changes; the logarithm of attack and vibrato.
        rng: draws phases and noise.

    Returns:
        (RATE × SECONDS,) float64, within −1 to 1 at full scale.
    """
    time = np.arange(int(RATE * SECONDS)) / RATE
    width = VIBRATO * np.exp(changes.get("vibrato", 0.0))
    semitones = changes.get("pitch", 0.0) + width * np.sin(2 * np.pi * (VIBRATO_RATE * time + rng.uniform()))
    frequency = PITCH * np.exp2(semitones / 12)
    partial = np.arange(1, int(0.5 * RATE / frequency.max()) + 1)
    octave = np.log2(partial * frequency.mean())
    level = (timbre.tilt + changes.get("brightness", 0.0)) * np.log2(partial)
    level += timbre.resonance * np.exp(-0.5 * np.square((octave - np.log2(timbre.formant)) / 0.5))
    level += np.where(partial % 2 == 0, timbre.even, 0.0)
    phase = 2 * np.pi * np.cumsum(frequency) / RATE
    start = rng.uniform(0, 2 * np.pi, len(partial))
    tone = np.zeros(len(time))
    for number, gain, first in zip(partial, 10 ** (level / 20), start, strict=True):
        tone += gain * np.sin(number * phase + first)
    tone *= np.minimum(time / (timbre.attack * np.exp(changes.get("attack", 0.0))), 1)
    noise = rng.normal(size=len(time)) * 10 ** ((NOISE + changes.get("noise", 0.0)) / 20)
    sound = tone / np.sqrt(np.square(tone).mean()) + noise
    scaled: np.ndarray = np.clip(sound * 10 ** ((LOUDNESS + changes.get("loudness", 0.0)) / 20), -1, 1)
    return scaled


def audio_features(sounds: np.ndarray, rate: int) -> pd.DataFrame:
    """The usual description of sounds of one length, by librosa: mean and standard deviation over frames.

    Args:
        sounds: (n, samples), within −1 to 1 at full scale.
        rate: samples a second.

    Returns:
        A row a sound, 54 columns `NAME_mean` and `NAME_sd`: 20 mel-frequency cepstral coefficients (`mfcc_0`, …),
        `centroid`, `bandwidth` and `rolloff` of the spectrum (log2 of Hz), its `flatness` and the level `rms`
        (decibels), `crossings` of zero (share of samples), and the fundamental `f0` (log2 of Hz; YIN, de Cheveigné and
        Kawahara 2002, doi:10.1121/1.1458024).
    """
    import librosa  # loads slowly

    feature, tiny = librosa.feature, 1e-10
    tables = []
    for first in range(0, len(sounds), CHUNK):
        part = np.asarray(sounds[first : first + CHUNK], dtype=np.float32)
        size = np.abs(librosa.stft(part, n_fft=FRAME, hop_length=HOP))
        f0 = librosa.yin(part, fmin=LOWEST, fmax=HIGHEST, sr=rate, frame_length=FRAME, hop_length=HOP)
        mel = librosa.power_to_db(feature.melspectrogram(S=np.square(size), sr=rate), top_db=None)
        hertz = {
            "centroid": feature.spectral_centroid(S=size, sr=rate),
            "bandwidth": feature.spectral_bandwidth(S=size, sr=rate),
            "rolloff": feature.spectral_rolloff(S=size, sr=rate),
        }
        frames = {name: np.log2(np.maximum(values[:, 0], 1)) for name, values in hertz.items()}
        frames["flatness"] = 10 * np.log10(np.maximum(feature.spectral_flatness(S=size)[:, 0], tiny))
        frames["rms"] = 20 * np.log10(np.maximum(feature.rms(y=part, frame_length=FRAME, hop_length=HOP)[:, 0], tiny))
        frames["crossings"] = feature.zero_crossing_rate(part, frame_length=FRAME, hop_length=HOP)[:, 0]
        frames["f0"] = np.log2(f0)
        mfcc = feature.mfcc(S=mel, n_mfcc=N_MFCC)
        frames = {f"mfcc_{i}": mfcc[:, i] for i in range(N_MFCC)} | frames
        columns = {f"{name}_mean": values.mean(-1) for name, values in frames.items()}
        tables.append(pd.DataFrame(columns | {f"{name}_sd": values.std(-1) for name, values in frames.items()}))
    return pd.concat(tables, ignore_index=True).astype(np.float64)


def simulate_sounds(settings: SoundsSimulation) -> tuple[AnnData, AnnData]:
    """Audio features of tones whose changes are known.

    Args:
        settings: the simulation.

    Returns:
        The data as a user has them: X audio features float64, obs `label`, the instrument. And the truth of the same
        samples: obs `label`, obsm["activity"] (n, modulations), uns["nvae_truth"].
    """
    classes = list(settings.classes)
    label = np.repeat(np.arange(len(classes)), list(settings.classes.values()))
    names = pd.Index([f"tone{i}" for i in range(len(label))])
    activity = draw_activities(label, names, settings.modulations, settings)
    total = amounts(activity.to_numpy(), settings.modulations)
    timbres, rng = [draw_timbre(name, settings.seed) for name in classes], stream(settings.seed, "phases and noise")
    features = []
    for first in range(0, len(label), CHUNK):
        rows = range(first, min(first + CHUNK, len(label)))
        changes = [{what: float(values[i]) for what, values in total.items()} for i in rows]
        sounds = [synthesise(timbres[label[i]], change, rng) for i, change in zip(rows, changes, strict=True)]
        features.append(audio_features(np.stack(sounds), RATE))
    table = pd.concat(features, ignore_index=True).set_axis(names, axis=0)
    obs = pd.DataFrame({schema.LABEL: named(label, classes)}, index=names)
    data = AnnData(table.to_numpy(), obs=obs, var=pd.DataFrame(index=table.columns))
    data.uns[schema.SIMULATION] = provenance(settings, in_memory=False)
    truth = AnnData(
        obs=obs, var=data.var, obsm={schema.ACTIVITY: activity}, uns={schema.TRUTH: truth_record(settings, False)}
    )
    return data, truth
