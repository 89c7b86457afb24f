"""What the people of the synthetic corpus can do: one function an action.

Each takes the attributes, a person and a random stream, and returns the action done once, from a
stand to the same stand, so that several can be joined. Angles are radians, lengths metres.
"""

from dataclasses import dataclass

import numpy as np

from easytune_lib.data import puppet
from easytune_lib.data.puppet import Body, Person, ease, keys, pulse, raise_foot, step, step_along

PACE = {"slowly": 0.65, "": 1.0, "quickly": 1.5}  # how many times as fast
COUNTS = {1: "once", 2: "twice", 3: "three times"}


@dataclass(frozen=True)
class Attributes:
    """What is true of a motion. Empty means that it is not said, not that it is not so."""

    action: str
    direction: str = ""  # forward, backward, left, right, around, circle
    speed: str = ""  # slowly, quickly
    side: str = ""  # left, right, both: which hand, foot, or sense of a circle
    count: int = 0  # 1, 2, 3
    then: "Attributes | None" = None  # what is done next

    @property
    def label(self) -> str:
        """Canonical name, such as "walk|forward|quickly" or "bow then kick|left"."""
        said = (self.action, self.direction, self.speed, self.side, COUNTS.get(self.count, ""))
        own = "|".join(filter(None, said))
        return f"{own} then {self.then.label}" if self.then else own

    @property
    def sides(self) -> tuple[str, ...]:
        """The hands or feet that are used."""
        return tuple(puppet.SIDES) if self.side == "both" else (self.side,)

    @property
    def other(self) -> str:
        """The hand or foot that is not used."""
        return {"left": "right", "right": "left"}[self.side]

    @property
    def sign(self) -> float:
        """1 to the left, -1 to the right, 0 if neither."""
        return puppet.SIDES.get(self.direction, puppet.SIDES.get(self.side, 0.0))

    @property
    def pace(self) -> float:
        """How many times as fast as usual."""
        return PACE[self.speed]


@dataclass(frozen=True)
class Gait:
    """How one gets along, at the usual pace."""

    speed: float  # metres a second
    cadence: float  # steps a second
    swing: float  # part of a foot's cycle that it is in the air
    height: float  # of a foot's arc
    heel: float
    arms: float  # radians a metre
    elbow: float = 0.0
    lean: float = 0.0
    bounce: float = 0.0  # metres
    knee: float = 0.0


WALK = Gait(1.15, 1.8, 0.38, 0.07, 0.8, arms=1.1, elbow=0.1, lean=0.03)
RUN = Gait(2.35, 2.7, 0.64, 0.16, 1.5, arms=1.1, elbow=1.2, lean=0.14, bounce=0.04)
MARCH = Gait(0.6, 1.7, 0.42, 0.3, 0.5, arms=2.4, elbow=0.1, bounce=0.0, knee=0.22)


def walk(a: Attributes, who: Person, rng: np.random.Generator) -> Body:
    """Straight on, back, in a bend of a quarter turn, or in a full circle."""
    return _travel(a, who, rng, WALK)


def run(a: Attributes, who: Person, rng: np.random.Generator) -> Body:
    """As :func:`walk`, with moments in which neither foot is on the floor."""
    return _travel(a, who, rng, RUN)


def march(a: Attributes, who: Person, rng: np.random.Generator) -> Body:
    """High knees and wide arms, on the spot unless a direction is given."""
    return _travel(a, who, rng, MARCH)


def turn(a: Attributes, who: Person, rng: np.random.Generator) -> Body:
    """A quarter turn in four steps on the spot, or a half turn in six."""
    half = a.direction == "around"
    sign = a.sign or rng.choice([1.0, -1.0])
    steps, period = (6, 0.36 * who.tempo / a.pace) if half else (4, 0.4 * who.tempo / a.pace)
    last = 0.2 + period * steps
    body = who.stand(last + 0.3)
    go = ease(body.time, 0.15, last)
    body.yaw += sign * np.pi * (1.0 if half else 0.5) * go
    body.look += sign * 0.5 * pulse(body.time, 0.0, 0.35 * last, 0.4 * last, last)
    first = "left" if sign > 0 else "right"
    step_along(body, who, 0.2, steps, period, 0.8 * period, first=first, height=0.07, heel=0.4)
    return body


def sidestep(a: Attributes, who: Person, rng: np.random.Generator) -> Body:
    """The foot on that side goes out, the other one follows."""
    body = who.stand(1.25 * who.tempo / a.pace)
    end, far = body.time[-1], a.sign * 0.42 * who.vigour
    body.pelvis[:, 0] += far * ease(body.time, 0.08 * end, 0.85 * end)
    body.pelvis[:, 1] -= 0.04 * pulse(body.phase, 0.05, 0.4, 0.5, 0.95)
    order = ("left", "right") if far > 0 else ("right", "left")
    for side, lift, land in zip(order, (0.08, 0.52), (0.48, 0.92), strict=True):
        sign = puppet.SIDES[side]
        to = np.array([far + sign * who.stance, 0.0, puppet.BALL])
        yaw = sign * who.toe_out
        step(body, side, lift * end, land * end, to, yaw, height=0.08, heel=0.3)
    body.roll += 0.05 * np.sign(far) * pulse(body.phase, 0.1, 0.4, 0.5, 0.9)
    _both(body, "spread", 0.25 * pulse(body.phase, 0.05, 0.4, 0.55, 0.95))
    return body


def jump(a: Attributes, who: Person, rng: np.random.Generator) -> Body:
    """Crouch, fly for about half a second, land in a crouch."""
    body = who.stand(1.55 * who.tempo)
    take, land = _leap(body, 0.75 * who.tempo, 0.5 * who.vigour, 0.3)
    way = {"forward": [0, 0, 0.45], "backward": [0, 0, -0.35]}.get(
        a.direction, [0.45 * a.sign, 0, 0]
    )
    far = who.vigour * np.array(way)
    body.pelvis += far * ease(body.time, take - 0.15, land + 0.15)[:, None]
    for side in body.feet:
        _fly(body, side, take, land, far, heel=0.7)
    return body


def hop(a: Attributes, who: Person, rng: np.random.Generator) -> Body:
    """Up and down on one foot, the other one held behind."""
    body, foot = who.stand(1.75 * who.tempo), a.side
    _stand_on(body, foot, pulse(body.phase, 0.0, 0.22, 0.8, 1.0))
    other = a.other
    raise_foot(body, other, pulse(body.phase, 0.1, 0.28, 0.74, 0.93), (0.0, 0.26, 0.0), 0.2)
    raise_foot(body, other, pulse(body.phase, 0.2, 0.32, 0.7, 0.85), (0.0, 0.0, -0.2), 0.9)
    take, land = _leap(body, 0.85 * who.tempo, 0.32 * who.vigour, 0.1)
    _fly(body, foot, take, land, np.zeros(3), heel=0.6)
    _both(body, "spread", 0.5 * pulse(body.phase, 0.1, 0.3, 0.7, 0.95))
    return body


def squat(a: Attributes, who: Person, rng: np.random.Generator) -> Body:
    """Down on bent knees and up, arms stretched ahead."""
    body = who.stand(1.65 * who.tempo / a.pace)
    down = pulse(body.phase, 0.02, 0.42, 0.55, 0.97)
    body.pelvis += down[:, None] * [0, -0.4 * who.vigour, -0.2]
    body.pitch += 0.45 * down
    body.bend += 0.25 * down
    body.nod -= 0.4 * down
    _both(body, "swing", 1.2 * down)
    _both(body, "elbow", (0.1 - who.elbow) * down)
    return body


def sit(a: Attributes, who: Person, rng: np.random.Generator) -> Body:
    """Down on a chair that is not there, and up again."""
    body = who.stand(3.3 * who.tempo / a.pace)
    down = pulse(body.phase, 0.05, 0.35, 0.65, 0.95)
    moving = pulse(body.phase, 0.03, 0.2, 0.22, 0.4) + pulse(body.phase, 0.6, 0.75, 0.77, 0.95)
    body.pelvis += down[:, None] * [0, -0.41, -0.42]
    body.bend += 0.55 * moving + 0.1 * down
    body.pitch += 0.25 * moving - 0.05 * down
    _both(body, "swing", 0.55 * down + 0.3 * moving)
    _both(body, "elbow", 0.7 * down)
    return body


def lunge(a: Attributes, who: Person, rng: np.random.Generator) -> Body:
    """A long step ahead with one foot, the other knee toward the floor, and back."""
    body, far = who.stand(2.4 * who.tempo / a.pace), 0.68 * who.vigour
    body.pelvis += pulse(body.phase, 0.03, 0.42, 0.58, 0.97)[:, None] * [0, -0.32, 0.5 * far]
    _step_out_and_back(body, a.side, far, (0.06, 0.33, 0.66, 0.94))
    body.feet[a.other].heel += 1.0 * pulse(body.phase, 0.1, 0.4, 0.6, 0.9)
    swing = pulse(body.phase, 0.05, 0.4, 0.6, 0.95)
    body.arms[a.side].swing -= 0.3 * swing
    body.arms[a.other].swing += 0.5 * swing
    return body


def bow(a: Attributes, who: Person, rng: np.random.Generator) -> Body:
    """Bend from the hips with the arms at the sides."""
    body = who.stand(1.7 * who.tempo / a.pace)
    down = who.vigour * pulse(body.phase, 0.05, 0.4, 0.58, 0.95)
    body.pitch += 0.5 * down
    body.bend += 0.55 * down
    body.nod += 0.2 * down
    body.pelvis[:, 2] -= 0.12 * down
    _both(body, "swing", 0.75 * down)
    return body


def nod(a: Attributes, who: Person, rng: np.random.Generator) -> Body:
    """The head goes down and up, and the neck with it a little."""
    body = who.stand(0.75 * who.tempo / a.pace)
    down = who.vigour * pulse(body.phase, 0.0, 0.45, 0.5, 1.0)
    body.nod += 0.7 * down
    body.bend += 0.15 * down
    return body


def wave(a: Attributes, who: Person, rng: np.random.Generator) -> Body:
    """A raised forearm, or both, goes from side to side."""
    body = who.stand(2.4 * who.tempo / a.pace**0.5)
    up = pulse(body.phase, 0.0, 0.25, 0.78, 1.0)
    rate = 2.0 * a.pace / who.tempo  # a second
    swinging = pulse(body.phase, 0.15, 0.3, 0.72, 0.85) * np.sin(2 * np.pi * rate * body.time)
    for side in a.sides:
        arm = body.arms[side]
        arm.spread += (1.25 - who.spread) * up
        arm.twist += 1.75 * up
        arm.elbow += (1.6 - who.elbow) * up + 0.55 * who.vigour * swinging
    return body


def raise_arm(a: Attributes, who: Person, rng: np.random.Generator) -> Body:
    """One arm, or both, straight up past the front and down again."""
    body = who.stand(2.0 * who.tempo / a.pace)
    up = pulse(body.phase, 0.02, 0.42, 0.58, 0.98)
    for side in a.sides:
        arm = body.arms[side]
        arm.swing += 2.8 * up
        arm.twist += 0.25 * up
        arm.elbow += (0.15 - who.elbow) * up
        body.lean -= 0.06 * puppet.SIDES[side] * up
    return body


def clap(a: Attributes, who: Person, rng: np.random.Generator) -> Body:
    """The hands meet in front of the chest, as often as asked (four times if not asked)."""
    times, beat = a.count or 4, 0.5 * who.tempo / a.pace
    body = who.stand(1.1 + times * beat)
    end = body.time[-1]
    up = pulse(body.time, 0.0, 0.5, end - 0.5, end)
    starts = [0.45 + i * beat for i in range(times)]
    shut = sum((pulse(body.time, s, s + beat / 2, s + beat / 2, s + beat) for s in starts), 0 * up)
    for arm in body.arms.values():
        arm.swing += 0.75 * up
        arm.elbow += (1.25 - who.elbow) * up
        arm.spread += (0.35 - who.spread) * up - 0.28 * shut
        arm.twist += 0.55 * up - 1.0 * shut
    return body


def punch(a: Attributes, who: Person, rng: np.random.Generator) -> Body:
    """From a guard, one fist shoots ahead, or both."""
    body = who.stand(1.3 * who.tempo / a.pace)
    guard = pulse(body.phase, 0.0, 0.3, 0.7, 1.0)
    hit = who.vigour * pulse(body.phase, 0.33, 0.48, 0.52, 0.68)
    for side, arm in body.arms.items():
        reach = hit if side in a.sides else 0.0 * hit
        arm.swing += 0.5 * guard + 0.95 * reach
        arm.elbow += (2.2 - who.elbow) * guard - 1.95 * reach
    body.twist -= 0.45 * hit * a.sign
    body.yaw -= 0.15 * hit * a.sign
    body.pelvis += guard[:, None] * [0, -0.05, 0] + hit[:, None] * [0, 0, 0.05]
    body.bend += 0.1 * guard
    return body


def throw(a: Attributes, who: Person, rng: np.random.Generator) -> Body:
    """After a step, the hand goes back over the shoulder and then ahead."""
    body = who.stand(2.0 * who.tempo / a.pace**0.4)
    arm = body.arms[a.side]
    back = keys(body.phase, (0.05, 0.0), (0.36, 1.0), (0.54, 0.0))
    fore = pulse(body.phase, 0.38, 0.55, 0.58, 0.95)
    arm.swing += keys(body.phase, (0.05, 0.0), (0.36, 2.5), (0.57, 1.25), (0.95, 0.0))
    arm.spread += 0.35 * back - 0.1 * fore
    arm.elbow += keys(body.phase, (0.05, 0.0), (0.36, 1.6), (0.55, -0.1), (0.7, 0.0))
    body.arms[a.other].swing += 0.9 * back - 0.2 * fore
    body.twist += a.sign * (0.6 * back - 0.5 * fore)
    body.bend += 0.35 * fore - 0.12 * back
    body.pelvis[:, 2] += keys(body.phase, (0.2, 0.0), (0.52, 0.18), (0.65, 0.18), (0.95, 0.0))
    _step_out_and_back(body, a.other, 0.3, (0.18, 0.4, 0.72, 0.94))
    return body


def kick(a: Attributes, who: Person, rng: np.random.Generator) -> Body:
    """One foot is raised, shoots ahead, and comes back."""
    body, foot = who.stand(1.6 * who.tempo / a.pace**0.6), a.side
    _stand_on(body, a.other, pulse(body.phase, 0.0, 0.25, 0.75, 1.0))
    hit = pulse(body.phase, 0.32, 0.49, 0.51, 0.68)
    raise_foot(body, foot, pulse(body.phase, 0.12, 0.34, 0.64, 0.9), (0.0, 0.4, 0.0), 0.7)
    raise_foot(body, foot, hit, (0.0, 0.36, 0.87), -1.2)
    body.pitch -= 0.25 * hit
    body.bend += 0.2 * hit
    body.arms[a.other].swing += 0.9 * hit
    body.arms[foot].swing -= 0.5 * hit
    _both(body, "elbow", 0.8 * pulse(body.phase, 0.05, 0.3, 0.7, 0.95))
    return body


def pick_up(a: Attributes, who: Person, rng: np.random.Generator) -> Body:
    """Down with a bent back until one hand is at the floor, and up."""
    body = who.stand(2.4 * who.tempo / a.pace)
    down = pulse(body.phase, 0.03, 0.42, 0.55, 0.97)
    body.pelvis += down[:, None] * [0, -0.36, -0.15]
    body.pitch += 0.8 * down
    body.bend += 0.75 * down
    body.nod -= 0.3 * down
    arm = body.arms[a.side]
    arm.swing += 1.2 * down
    arm.elbow += (0.1 - who.elbow) * down
    other = body.arms[a.other]
    other.swing += 0.6 * down
    other.elbow += 1.2 * down
    return body


def _travel(a: Attributes, who: Person, rng: np.random.Generator, gait: Gait) -> Body:
    """Steps along a path whose length, speed and bend come from the attributes."""
    speed = gait.speed * a.pace / who.tempo * {"": 0.0, "backward": -0.7}.get(a.direction, 1.0)
    period = who.tempo / (gait.cadence * a.pace**0.5)  # from step to step
    swing, seconds, angle = 2 * period * gait.swing, who.travel, 0.0
    if a.direction == "circle":
        angle = a.sign * 2 * np.pi
        seconds = 2 * np.pi * rng.uniform(0.48, 0.6) * speed**-0.4 + 0.6  # faster is wider
    elif a.direction in puppet.SIDES:
        angle = a.sign * np.pi / 2
    steps = max(4, round(seconds / period))
    last = 0.2 + (steps - 1) * period + swing  # the last foot is set down
    body = who.stand(last + 0.35)
    going = pulse(body.time, 0.05, 0.7, last - 0.55, last + 0.1)
    done = np.cumsum(going) / going.sum()
    body.yaw += angle * (done if a.direction == "circle" else ease(done, 0.15, 0.85))
    ahead = (speed * going / puppet.FPS)[:, None] * [0, 0, 1]
    body.pelvis += np.cumsum(puppet.headed(ahead, body.yaw), axis=0)
    foot = str(rng.choice(list(puppet.SIDES)))
    feet = {"height": gait.height, "heel": gait.heel, "knee": gait.knee}
    step_along(body, who, 0.2, steps, period, swing, first=foot, **feet)
    puppet.swing_arms(body, gait.arms * who.vigour)
    _both(body, "elbow", gait.elbow * going)
    body.pitch += gait.lean * np.sign(speed) * going
    stance = 0.2 + swing / 2 + period  # the middle of the first foot's
    bounce = gait.bounce * np.cos(2 * np.pi * (body.time - stance) / period)
    body.pelvis[:, 1] -= (0.02 + bounce) * going
    return body


def _leap(body: Body, apex: float, flight: float, depth: float) -> tuple[float, float]:
    """Pelvis of a leap whose middle is at ``apex``, and what spine and arms do with it.

    Returns:
        When the feet leave the floor, and when they are back.
    """
    far, gravity, up = np.abs(body.time - apex), 9.81, 0.05
    push = 2 * (depth + up) / (gravity * flight / 2)  # from rest to the speed of the take-off
    pushing = up - (depth + up) * (1 - (1 - np.clip((far - flight / 2) / push, 0, 1)) ** 2)
    flying = up + gravity / 2 * ((flight / 2) ** 2 - far**2)
    crouched = -depth * (1 - ease(far, flight / 2 + push, apex - 0.05))
    height = np.select([far < flight / 2, far < flight / 2 + push], [flying, pushing], crouched)
    low = np.maximum(-height, 0) / depth
    body.pelvis[:, 1] += height
    body.pelvis[:, 2] -= 0.3 * depth * low
    body.pitch += 1.2 * depth * low
    body.bend += 0.8 * depth * low
    before = body.time < apex
    _both(body, "swing", puppet.smoothed(np.where(before, -2.5, 1.5) * depth * low, 1.5))
    _both(body, "swing", 3 * depth * pulse(body.time, apex - 0.35, apex, apex, apex + 0.45))
    return apex - flight / 2, apex + flight / 2


def _stand_on(body: Body, side: str, much: np.ndarray) -> None:
    """Shift the weight over one foot."""
    over = body.feet[side].ball[0, 0]
    body.pelvis[:, 0] += 0.75 * over * much
    body.roll -= 0.04 * np.sign(over) * much


def _both(body: Body, angle: str, curve: np.ndarray) -> None:
    """Add to an angle of both arms."""
    for arm in body.arms.values():
        setattr(arm, angle, getattr(arm, angle) + curve)


def _fly(body: Body, foot: str, take: float, land: float, far: np.ndarray, heel: float) -> None:
    """Carry a foot as far as the body flies, and as high."""
    ball, yaw = body.feet[foot].ball[0], float(body.feet[foot].yaw[0])
    rise = body.pelvis[:, 1].max() - body.pelvis[0, 1]
    step(body, foot, take, land, ball + far, yaw, height=rise, heel=heel)


def _step_out_and_back(body: Body, foot: str, far: float, when: tuple[float, ...]) -> None:
    """Set a foot down ahead and bring it back: lift, land, lift, land as parts of the whole."""
    ball, yaw = body.feet[foot].ball[0].copy(), float(body.feet[foot].yaw[0])
    lift, land, again, back = (part * body.time[-1] for part in when)
    step(body, foot, lift, land, ball + np.array([0, 0, far]), yaw, height=0.12, heel=0.2)
    step(body, foot, again, back, ball, yaw, height=0.12, heel=0.2)
