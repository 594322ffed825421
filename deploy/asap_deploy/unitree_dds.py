"""The one file that knows CycloneDDS: topics of a Unitree robot, read and written as raw bytes.

The binding's own encoder takes half a millisecond a message and makes a queue of old states that
look fresh; so it serves for discovery and types alone, and ``unitree_codec`` makes the bytes. That
uses two functions that the binding does not document: ``self_test`` compares with its own encoder
whenever a link opens, and nothing starts if a byte differs.

    node = Node("lo", domain=1, real=False)
    states = node.reader("rt/lowstate")
    for data in states.take(): ...
    node.writer("rt/lowcmd").write(data)

Two generations of CycloneDDS must not meet: a participant of version 11 makes every process with
version 0.10 on the same network crash that has a topic of the same name, and robots have 0.10.
"""

from __future__ import annotations

import ctypes
import re
import socket
from typing import Any, Callable, Dict, List, Tuple

import numpy as np

from asap_deploy.errors import InputError
from asap_deploy.unitree_codec import LOW_CMD, LOW_STATE, encode

LOOPBACK = "lo"
ROBOT_DOMAIN, SIMULATION_DOMAIN, LAST_DOMAIN = 0, 1, 230
TAKE = 64
"""Messages taken at once; a queue that is longer is emptied by the next call."""

KEPT = 32
"""Messages that wait for a reader: 64 ms of states. Older ones are overwritten."""

_ON_LOOPBACK = """<CycloneDDS><Domain Id="any">
<General><Interfaces><NetworkInterface address="127.0.0.1" multicast="false"/></Interfaces>
<AllowMulticast>false</AllowMulticast><EnableMulticastLoopback>false</EnableMulticastLoopback>
</General><Discovery><ParticipantIndex>auto</ParticipantIndex>
<MaxAutoParticipantIndex>20</MaxAutoParticipantIndex>
<Peers><Peer Address="127.0.0.1"/></Peers></Discovery></Domain></CycloneDDS>"""
_ON_NETWORK = """<CycloneDDS><Domain Id="any"><General><Interfaces>
<NetworkInterface name="{}" priority="default" multicast="default"/>
</Interfaces></General></Domain></CycloneDDS>"""

_DOMAINS: Dict[int, Tuple[str, Any]] = {}
"""A process configures a domain once; afterwards it stays."""


def generation() -> Tuple[int, ...]:
    """Version of the binding that is installed.

    Raises:
        InputError: If there is none.
    """
    try:
        from importlib.metadata import version

        import cyclonedds.core  # noqa: F401  (finds the C library, or does not)

        return tuple(int(part) for part in re.findall(r"\d+", version("cyclonedds"))[:3])
    except (ImportError, OSError) as error:
        raise InputError(
            f"link 'unitree' needs CycloneDDS 0.10 and its Python binding ({error}); see "
            "deploy/README.md (far-unitree-sdk does not serve: it hides the robot's clock, and "
            "repeats the last command by itself when this program hangs)"
        ) from None


def check_network(interface: str, domain: int, real: bool, version: Tuple[int, ...]) -> None:
    """Whether this binding may speak on this network in this domain.

    Raises:
        InputError: If not, with the reason.
    """
    names = [name for _, name in socket.if_nameindex()]
    if not interface:
        raise InputError(f"--address must name the network interface (here: {', '.join(names)})")
    if interface not in names:
        raise InputError(f"there is no network interface '{interface}' (here: {', '.join(names)})")
    if not 0 <= domain <= LAST_DOMAIN:
        raise InputError(f"DDS domain must be 0 to {LAST_DOMAIN}; got {domain}")
    if domain == ROBOT_DOMAIN and not real:
        raise InputError("DDS domain 0 is that of real robots: say --real if you mean one")
    if real and (domain != ROBOT_DOMAIN or interface == LOOPBACK):
        raise InputError(f"a real robot is in DDS domain 0 and not on '{LOOPBACK}'; "
                         f"got domain {domain} on '{interface}'")  # fmt: skip
    if version[:1] != (0,) and interface != LOOPBACK:
        raise InputError(
            f"cyclonedds {'.'.join(map(str, version))} makes robots' own programs crash; on any "
            "network but loopback install 0.10.2 or 0.10.5 (see deploy/README.md)"
        )


class Node:
    """A participant in one domain on one interface."""

    def __init__(self, interface: str, *, domain: int, real: bool) -> None:
        """Join.

        Args:
            interface: Name of a network interface.
            domain: Of DDS; 0 is that of real robots.
            real: The operator said that there is a real robot.

        Raises:
            InputError: If the network or the binding will not do.
        """
        self.version = generation()
        check_network(interface, domain, real, self.version)
        from cyclonedds.core import DDSException
        from cyclonedds.domain import Domain, DomainParticipant

        text = _ON_LOOPBACK if interface == LOOPBACK else _ON_NETWORK.format(interface)
        try:
            if domain not in _DOMAINS:
                _DOMAINS[domain] = (interface, Domain(domain, text))
            elif _DOMAINS[domain][0] != interface:
                raise InputError(f"this process has DDS domain {domain} on another interface")
            self.participant = DomainParticipant(domain)
        except DDSException as error:
            raise InputError(f"no DDS on '{interface}': {error}") from None
        self.message_types: Dict[str, Any] = message_types()
        """Classes by name; "request" and "response" are those of services."""
        self_test(self.message_types)
        self._open: List[Any] = [self.participant]

    def reader(self, topic: str, *, own: bool = True) -> Reader:
        """Listen to a topic.

        Args:
            topic: One of ``TOPICS``.
            own: Whether writers of this node count as well.
        """
        from cyclonedds.qos import Policy, Qos
        from cyclonedds.sub import DataReader

        policies = [Policy.History.KeepLast(KEPT)]
        if not own:
            policies.append(Policy.IgnoreLocal.Participant)
        reader = DataReader(self.participant, self._topic(topic), qos=Qos(*policies))
        self._open.append(reader)
        return Reader(reader, self.version)

    def writer(self, topic: str) -> Writer:
        """Publish a topic; others see that somebody does from now on."""
        from cyclonedds.pub import DataWriter

        writer = DataWriter(self.participant, self._topic(topic))
        self._open.append(writer)
        return Writer(writer)

    def rpc(self, service: str, kind: str, *, writes: bool) -> Any:
        """The binding's own reader or writer of requests to a service, or of its responses."""
        from cyclonedds.pub import DataWriter
        from cyclonedds.sub import DataReader
        from cyclonedds.topic import Topic

        topic = Topic(self.participant, f"rt/api/{service}/{kind}", self.message_types[kind])
        entity = (DataWriter if writes else DataReader)(self.participant, topic)
        self._open += [topic, entity]
        return entity

    def rpc_publishers(self, reader: Any) -> Callable[[], int]:
        """Counts who may answer to a reader of responses."""
        return Reader(reader, self.version).publishers

    def close(self) -> None:
        """Leave; the participant takes readers and writers with it."""
        for entity in reversed(self._open):
            entity.__del__()
            entity._ref = -1  # the binding would delete it again, by a number that others may have
        self._open = []

    def _topic(self, name: str) -> Any:
        from cyclonedds.topic import Topic

        topic = Topic(self.participant, name, self.message_types[TOPICS[name]])
        self._open.append(topic)
        return topic


class Reader:
    """Raw messages of one topic."""

    def __init__(self, reader: Any, version: Tuple[int, ...]) -> None:
        """Made by a node."""
        from cyclonedds.core import InstanceState, ReadCondition, SampleState, ViewState, WaitSet
        from cyclonedds.internal import DDS, dds_c_t

        self._reader, self._old = reader, version[0] == 0
        mask = ViewState.Any | InstanceState.Any | SampleState.NotRead
        self._set = WaitSet(reader.participant)
        self._condition = ReadCondition(reader, mask)
        self._set.attach(self._condition)
        self._matched = dds_c_t.subscription_matched_status()
        self._ask = DDS._dll_handle.dds_get_subscription_matched_status
        self._ask.argtypes = [ctypes.c_int32, ctypes.c_void_p]

    def wait(self, timeout_s: float) -> bool:
        """Sleep until something is there or the time is over."""
        return bool(self._set.wait(max(1, int(1e9 * timeout_s))))

    def take(self) -> List[bytes]:
        """All messages that wait, oldest first, with their CDR header."""
        from cyclonedds import _clayer

        if self._old:
            found = _clayer.ddspy_take(self._reader._ref, TAKE)
        else:
            found = _clayer.ddspy_take(self._reader._ref, 0, TAKE)
        if isinstance(found, int):
            raise OSError(f"CycloneDDS cannot read: error {found}")
        return [data for data, info in found if info.valid_data]

    def publishers(self) -> int:
        """Writers of this topic that are there now, whether they write or not."""
        self._ask(self._reader._ref, ctypes.byref(self._matched))
        return int(self._matched.current_count)


class Writer:
    """Raw messages into one topic."""

    def __init__(self, writer: Any) -> None:
        """Made by a node."""
        from cyclonedds import _clayer

        self._writer, self._write = writer, _clayer.ddspy_write

    def write(self, data: bytes) -> None:
        """Send a message with its CDR header."""
        code = self._write(self._writer._ref, data)
        if code < 0:
            raise OSError(f"CycloneDDS cannot write: error {code}")


TOPICS = {"rt/lowstate": "LowState_", "rt/lowcmd": "LowCmd_", "rt/lf/bmsstate": "BmsState_"}
"""Topics by name, and their type."""


def message_types() -> Dict[str, Any]:
    """Classes of all messages as the robot maker's IDL has them, for the binding."""
    from cyclonedds.idl import make_idl_struct, types
    from cyclonedds.idl.annotations import final

    found: Dict[str, Any] = {}

    def make(package: str, name: str, alias: str = "", **fields: Any) -> Any:
        kind = final(make_idl_struct(name, f"{package}.msg.dds_.{name}", fields))
        found[alias or name] = kind
        return kind

    u1, u4, f4, i2 = types.uint8, types.uint32, types.float32, types.int16
    array = types.array
    motor = make("unitree_hg", "MotorCmd_", mode=u1, q=f4, dq=f4, tau=f4, kp=f4, kd=f4, reserve=u4)
    make("unitree_hg", "LowCmd_", mode_pr=u1, mode_machine=u1, motor_cmd=array[motor, 35],
         reserve=array[u4, 4], crc=u4)  # fmt: skip
    imu = make("unitree_hg", "IMUState_", quaternion=array[f4, 4], gyroscope=array[f4, 3],
               accelerometer=array[f4, 3], rpy=array[f4, 3], temperature=i2)  # fmt: skip
    motor = make("unitree_hg", "MotorState_", mode=u1, q=f4, dq=f4, ddq=f4, tau_est=f4,
                 temperature=array[i2, 2], vol=f4, sensor=array[u4, 2], motorstate=u4,
                 reserve=array[u4, 4])  # fmt: skip
    make("unitree_hg", "LowState_", version=array[u4, 2], mode_pr=u1, mode_machine=u1, tick=u4,
         imu_state=imu, motor_state=array[motor, 35], wireless_remote=array[u1, 40],
         reserve=array[u4, 4], crc=u4)  # fmt: skip
    make("unitree_hg", "BmsState_", version_high=u1, version_low=u1, fn=u1,
         cell_vol=array[types.uint16, 40], bmsvoltage=array[u4, 3], current=types.int32, soc=u1,
         soh=u1, temperature=array[i2, 12], cycle=types.uint16, manufacturer_date=types.uint16,
         bmsstate=array[u4, 5], reserve=array[u4, 3])  # fmt: skip
    identity = make("unitree_api", "RequestIdentity_", id=types.int64, api_id=types.int64)
    lease = make("unitree_api", "RequestLease_", id=types.int64)
    policy = make("unitree_api", "RequestPolicy_", priority=types.int32, noreply=bool)
    header = make("unitree_api", "RequestHeader_", identity=identity, lease=lease, policy=policy)
    make("unitree_api", "Request_", "request", header=header, parameter=str,
         binary=types.sequence[u1])  # fmt: skip
    status = make("unitree_api", "ResponseStatus_", code=types.int32)
    header = make("unitree_api", "ResponseHeader_", identity=identity, status=status)
    make("unitree_api", "Response_", "response", header=header, data=str,
         binary=types.sequence[u1])  # fmt: skip
    return found


def self_test(kinds: Dict[str, Any]) -> None:
    """Compare our bytes with those of the binding's own encoder, for one message of each kind.

    Raises:
        InputError: If they differ: then nothing may be sent.
    """
    rng = np.random.default_rng(0)
    for name, dtype in (("LowCmd_", LOW_CMD), ("LowState_", LOW_STATE)):
        data = encode(_finite(np.frombuffer(rng.bytes(dtype.itemsize), dtype)))
        if bytes(kinds[name].deserialize(data).serialize()) != data:
            raise InputError(f"this cyclonedds encodes {name} in another way than ours: not used")


def _finite(rows: np.ndarray) -> np.ndarray:
    """The same with whole numbers for floats: random bits may be NaN, which nobody keeps."""
    found = np.zeros(len(rows), rows.dtype)
    _fill(found, rows)
    return found


def _fill(to: np.ndarray, source: np.ndarray) -> None:
    for name in to.dtype.names or ():
        if to[name].dtype.names:
            _fill(to[name], source[name])
        elif to[name].dtype.kind == "f":
            to[name] = source[name].copy().view("<i4") >> 8
        else:
            to[name] = source[name]
