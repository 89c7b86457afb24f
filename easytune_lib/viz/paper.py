"""What the paper prints, for light overlays beside our own curves.

Source: figures and tables of Tan et al. (2026), digitised or read by eye from the project page;
``shared/reference/paper.md`` sections 4 and 5 say how. None of it is our result.
"""

FIGURE_3 = {  # step 0 is the clean end
    "step": [1, 2, 3, 5, 49],
    "jacobian_norm": [0.98, 0.865, 0.52, 0.35, 0.35],
    "product_norm": [0.305, 0.09, 0.03, 0.0, 0.0],
}

FIGURE_4 = {  # step 0 is the clean end, of 16; "predicted" is the appendix's, read at six steps
    "step": list(range(16)),
    "similarity": [
        1.0, 1.0, 1.0, 0.997, 0.993, 0.987, 0.977, 0.963,
        0.945, 0.92, 0.885, 0.843, 0.787, 0.715, 0.62, 0.49,
    ],
    "image": [
        1.0, 0.93, 0.877, 0.79, 0.72, 0.68, 0.647, 0.61,
        0.57, 0.53, 0.505, 0.49, 0.48, 0.475, 0.47, 0.47,
    ],
    "predicted": [
        1.0, None, None, None, None, None, 1.0, None,
        None, 0.96, 0.94, None, 0.88, None, None, 0.735,
    ],
}  # fmt: skip

TABLE_1 = {  # HumanML3D, MLD: R@1, FID, MM-Dist, peak memory in GB
    "base": {"r1": 0.504, "fid": 0.450, "mm_dist": 3.052, "gigabytes": 15.21},
    "ReFL": {"r1": 0.533, "fid": 0.207, "mm_dist": 2.852, "gigabytes": 22.10},
    "DRaFT-10": {"r1": 0.565, "fid": 0.195, "mm_dist": 2.703, "gigabytes": 26.56},
    "DRaFT-50": {"r1": 0.528, "fid": 0.197, "mm_dist": 2.872, "gigabytes": 37.32},
    "AlignProp": {"r1": 0.560, "fid": 0.266, "mm_dist": 2.739, "gigabytes": 30.40},
    "DRTune": {"r1": 0.549, "fid": 0.313, "mm_dist": 2.795, "gigabytes": 27.01},
    "EasyTune": {"r1": 0.581, "fid": 0.132, "mm_dist": 2.637, "gigabytes": 22.10},
}

_EASY, _BASE, _CHAIN = (TABLE_1[n]["gigabytes"] for n in ("EasyTune", "base", "DRaFT-50"))
MEMORY_SHARE = (_EASY - _BASE) / (_CHAIN - _BASE)
"""EasyTune's of DRaFT-50's memory beyond the base's; the abstract's 31.16 %."""

FIGURE_6 = {  # GB at denoising steps 10 to 50 without backpropagation, weights included
    "step": [10, 20, 30, 40, 50],
    "DRaFT-50": [4.6, 7.2, 9.9, 12.6, 15.3],
    "AlignProp": [3.2, 4.4, 5.7, 7.0, 8.4],
    "DRTune": [2.7, 3.2, 3.7, 4.3, 4.9],
    "EasyTune": [2.1, 2.1, 2.1, 2.1, 2.1],
}

TABLE_S9 = {  # seconds an update, and until the training reward is .70, .75, .80, .85; A6000
    "DRaFT-50": [5.61, 466.27, 2616.54, None, None],
    "AlignProp": [5.17, 271.99, 971.55, None, None],
    "DRTune": [4.90, 554.77, 2009.59, None, None],
    "ReFL": [4.72, 820.29, None, None, None],
    "EasyTune": [1.47, 263.36, 358.17, 452.53, 1025.17],
}

TABLE_2 = {  # HumanML3D: MM-Dist of each backbone, and with EasyTune (one-step reward)
    "MLD": (3.052, 2.672),
    "MLD++": (2.810, 2.603),
    "MotionLCM-1": (3.052, 2.647),
    "MotionLCM-4": (3.012, 2.691),
    "MDM": (3.330, 3.117),
    "MotionDiffuse": (3.113, 3.068),
}

TABLE_4 = {  # R@1, 2, 3, 5, 10 in percent, groups of 32, HumanML3D: text to motion, motion to text
    "TMR": [67.16, 81.32, 86.81, 91.43, 95.36, 67.97, 81.20, 86.35, 91.70, 95.27],
    "LaMP": [67.18, 81.90, 87.04, 92.00, 95.73, 68.02, 82.10, 87.50, 92.20, 96.90],
    "before SPL": [67.59, 82.24, 87.44, 91.97, 96.28, 68.94, 82.86, 87.95, 92.44, 96.28],
    "after SPL": [69.31, 83.71, 88.66, 92.81, 96.75, 70.23, 83.41, 88.72, 93.07, 97.04],
}

FIGURE_7 = {  # what people preferred, MLD: percent base, same, tuned; how many people is unknown
    "alignment": [9.0, 18.0, 73.0],
    "physical fidelity": [16.0, 40.0, 44.0],
    "coherence, fluency": [23.0, 36.0, 41.0],
}

FIGURE_8 = {1: 57.32, 2: 54.03, 3: 55.13}
"""Percent of the cases in which SPL's R@k wins; what is paired is unknown."""

TRAINING_CURVES = {  # reward (minus the loss) after about 1450 batches of motions
    "EasyTune": 0.79,
    "AlignProp": 0.755,
    "DRaFT-10": 0.72,
    "DRaFT-50": 0.72,
    "ReFL": 0.72,
    "DRTune": 0.59,
}
