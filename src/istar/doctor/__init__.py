"""What this machine brings for istar, and what is wrong with it; without torch unless asked."""

from __future__ import annotations

from istar.doctor.hub import Cache, Hub, Token
from istar.doctor.machine import Cuda, CudaDevice, Gpu, Gpus, Host
from istar.doctor.needs import Fit, ModelNeeds
from istar.doctor.report import Problem, Report, examine
from istar.doctor.software import Codecs, Software

__all__ = [
    "Cache",
    "Codecs",
    "Cuda",
    "CudaDevice",
    "Fit",
    "Gpu",
    "Gpus",
    "Host",
    "Hub",
    "ModelNeeds",
    "Problem",
    "Report",
    "Software",
    "Token",
    "examine",
]
