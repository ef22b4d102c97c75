"""Names of the observations of the planar MuJoCo tasks, in the order in which they come.

Source: the observation tables of gymnasium's documentation; v3, v4 and v5 agree.
"""

_CHEETAH = ("back thigh", "back shin", "back foot", "front thigh", "front shin", "front foot")
_HOPPER = ("thigh", "leg", "foot")
_WALKER = ("right thigh", "right leg", "right foot", "left thigh", "left leg", "left foot")


def _planar(joints: tuple[str, ...]) -> tuple[str, ...]:
    angles = tuple(f"{joint} angle" for joint in joints)
    speeds = tuple(f"{joint} speed" for joint in joints)
    body = ("forward speed", "upward speed", "pitch speed")
    return ("height", "pitch angle", *angles, *body, *speeds)


NAMES = {
    "HalfCheetah": _planar(_CHEETAH),
    "Hopper": _planar(_HOPPER),
    "Walker2d": _planar(_WALKER),
}


def feature_names(env: str) -> tuple[str, ...]:
    """Names of the real features of a task such as "Hopper-v3"; empty where none are known."""
    return NAMES.get(env.split("-")[0], ())
