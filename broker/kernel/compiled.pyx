# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: c_string_type=bytes, auto_pickle=False, nonecheck=True
"""The compiled twin of `cores`, `relay` and `opening`: the same classes with the same fields, typed,
and the same loop, statement for statement.

A mistake above has to raise here as it does there: so None is looked for (`nonecheck`), and what comes
out of dictionaries and tuples that others fill is checked.

What it does differently is where the bytes go. The plain loop appends three slices per frame to the
peer's outbound. Here the frames of a batch that only need another stream id are noted in a table of
numbers, and copied once, into one piece of exactly the right size per peer: when the batch has
ended, or before anything in Python is called that may send to the same peers.

Which of the two is used is decided in `broker.kernel`. A differential test feeds both the same
bytes, and all other tests run over both.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_DelItem, PyDict_GetItem, PyDict_SetItem
from cpython.list cimport PyList_GET_SIZE
from cpython.long cimport PyLong_AsLong
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject, PyTypeObject
from cpython.set cimport PySet_Add, PySet_Discard
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport uint32_t
from libc.string cimport memcmp, memcpy

from broker.kernel import law as _law
from rsocket_mesh.protocol import frames as _frames
from rsocket_mesh.protocol.metadata import DEADLINE, encode_deadline, encode_entry

ctypedef const unsigned char* Bytes

cdef extern from "Python.h":
    ctypedef object (*newfunc)(PyTypeObject*, object, PyObject*)
    newfunc tp_new_of "_tp_new_of"(PyTypeObject*)

cdef extern from *:
    """
    #define _tp_new_of(type) ((type)->tp_new)
    """

cdef enum:
    HEAD_SIZE = 9  # bytes of prefix and header
    ITEM = 1
    ITEM_UP = 2
    REQUEST_RESPONSE = 4
    REQUEST_FNF = 5
    REQUEST_STREAM = 6
    FIRST_REQUEST = 4 << 10
    LAST_REQUEST = 7 << 10 | 0x3FF
    METADATA = 0x100
    FLAGS_BUT_METADATA = 0x2FF
    MAX_ID = 0x7FFFFFFF  # of a stream; of a request n as well
    ROUTING_ID = 0xFE  # well-known id 0x7E, as the first byte of an entry
    FEWEST = 64  # places in a table that begins

# The numbers above are the specification's; those that are ours are checked.
if (ITEM, ITEM_UP, METADATA, MAX_ID) != (
    _law.ITEM, _law.ITEM_UP, _frames.FLAG_METADATA, _frames.MAX_STREAM_ID
) or _law.END or _frames.MAX_REQUEST_N != MAX_ID:
    raise ImportError("the compiled kernel was built from another version of this package")

cdef dict CALLER_WAITS = _law.CALLER_WAITS
cdef dict RESPONSE = _law.RESPONSE
cdef bytes DEADLINE_ENTRY = encode_entry(DEADLINE, encode_deadline(0))
cdef Py_ssize_t DEADLINE_SIZE = len(DEADLINE_ENTRY)
cdef tuple NOTHING = ()


# -- cores: see cores.py for what the fields mean ---------------------------------------------------

cdef class TallyCore:
    cdef public long long started
    cdef public long long ok


cdef class CreditCore:
    cdef public long long left
    cdef public long long bytes


cdef class RouteCore:
    cdef public LinkCore only
    cdef public tuple equals
    cdef public bint is_budgeted
    cdef public TallyCore counters

    def __init__(self, only, equals, is_budgeted, counters):
        self.only = only
        self.equals = equals
        self.is_budgeted = is_budgeted
        self.counters = counters


cdef class HubCore:
    cdef public double now
    cdef public Py_ssize_t frame_limit
    cdef public object wheel
    cdef public set default_bucket
    cdef public long long deadline_ms
    cdef public set deadline_bucket
    cdef public object draw
    cdef public object counters
    cdef public type call_class
    cdef Batch batch

    def __cinit__(self):
        self.batch = Batch()


cdef class LinkCore:
    cdef public bint open
    cdef public bint accepting
    cdef public bint congested
    cdef public long long in_flight
    cdef public long long next_id
    cdef public long long requests_left
    cdef public HubCore hub
    cdef public dict streams
    cdef public dict held
    cdef public object routes
    cdef public object sends
    cdef public object takes
    cdef public list out
    cdef public object transport
    cdef Py_ssize_t place  # in the table of the batch; -1 if it has none

    def __cinit__(self):
        self.place = -1

    def __init__(self):
        self.next_id = 2
        self.streams = {}
        self.held = {}


cdef class CallCore:
    cdef public LinkCore caller
    cdef public long long caller_id
    cdef public LinkCore provider
    cdef public long long provider_id
    cdef public int kind
    cdef public TallyCore counters
    cdef public set bucket
    cdef public long long coming_up
    cdef public long long coming_down
    cdef public CreditCore down
    cdef public CreditCore up

    def __init__(self, caller, caller_id, provider, provider_id, kind, counters, bucket):
        self.caller = caller
        self.caller_id = caller_id
        self.provider = provider
        self.provider_id = provider_id
        self.kind = kind
        self.counters = counters
        self.bucket = bucket

    def forget(self):
        _forget(self)


cdef int _forget(CallCore call) except -1:
    PyDict_DelItem(call.caller.streams, call.caller_id)
    PyDict_DelItem(call.provider.streams, call.provider_id)
    call.provider.in_flight -= 1
    if call.bucket is not None:
        PySet_Discard(call.bucket, call)
    return 0


# -- where the frames of a batch go -----------------------------------------------------------------

cdef struct Frame:
    Py_ssize_t place  # of the peer
    Py_ssize_t start, stop  # with its prefix, in the batch
    uint32_t stamp  # its stream id at the peer, in the order of the wire
    uint32_t granted  # its initial request n, likewise; 0 as it is


cdef struct Piece:
    Py_ssize_t size
    char* cursor


cdef class Batch:
    """Frames that leave as they are under another stream id, until they are copied."""

    cdef Frame* frames
    cdef Py_ssize_t count, room
    cdef Piece* pieces  # one per peer
    cdef Py_ssize_t pieces_room
    cdef list peers

    def __cinit__(self):
        self.peers = []

    def __dealloc__(self):
        PyMem_Free(self.frames)
        PyMem_Free(self.pieces)

    cdef int note(
        self, LinkCore peer, Py_ssize_t start, Py_ssize_t stop, Bytes stamp, uint32_t granted
    ) except -1:
        """Have the frame between *start* and *stop* sent to *peer*."""
        cdef Py_ssize_t place = peer.place
        cdef Frame* frame
        if self.count == self.room:
            self._grow_frames()
        if place < 0:
            place = PyList_GET_SIZE(self.peers)
            if place == self.pieces_room:
                self._grow_pieces()
            self.peers.append(peer)
            self.pieces[place].size = 0
            peer.place = place
        frame = &self.frames[self.count]
        frame.place = place
        frame.start = start
        frame.stop = stop
        memcpy(&frame.stamp, stamp, 4)
        frame.granted = granted
        self.pieces[place].size += stop - start
        self.count += 1
        return 0

    cdef int hand_over(self, Bytes base, list flushing) except -1:
        """Append to the outbound of each peer what was noted for it; add the peers to *flushing*."""
        cdef Py_ssize_t index, size
        cdef Frame* frame
        cdef Piece* piece
        cdef LinkCore peer
        cdef list chunks
        if not self.count:
            return 0
        try:
            chunks = []
            for index in range(PyList_GET_SIZE(self.peers)):
                chunk = PyBytes_FromStringAndSize(NULL, self.pieces[index].size)
                self.pieces[index].cursor = PyBytes_AS_STRING(chunk)
                chunks.append(chunk)
            for index in range(self.count):
                frame = &self.frames[index]
                piece = &self.pieces[frame.place]
                size = frame.stop - frame.start
                memcpy(piece.cursor, base + frame.start, size)
                memcpy(piece.cursor + 3, &frame.stamp, 4)
                if frame.granted:
                    memcpy(piece.cursor + HEAD_SIZE, &frame.granted, 4)
                piece.cursor += size
            for index in range(PyList_GET_SIZE(self.peers)):
                peer = <LinkCore>self.peers[index]
                peer.out.append(chunks[index])
                flushing.append(peer)
        finally:
            for peer in self.peers:
                peer.place = -1
            self.peers.clear()
            self.count = 0
        return 0

    cdef int _grow_frames(self) except -1:
        cdef Py_ssize_t room = max(<Py_ssize_t>FEWEST, 2 * self.room)
        cdef Frame* grown = <Frame*>PyMem_Realloc(self.frames, room * sizeof(Frame))
        if grown is NULL:
            raise MemoryError
        self.frames, self.room = grown, room
        return 0

    cdef int _grow_pieces(self) except -1:
        cdef Py_ssize_t room = max(<Py_ssize_t>FEWEST, 2 * self.pieces_room)
        cdef Piece* grown = <Piece*>PyMem_Realloc(self.pieces, room * sizeof(Piece))
        if grown is NULL:
            raise MemoryError
        self.pieces, self.pieces_room = grown, room
        return 0


cdef inline uint32_t _24_bits(Bytes at) noexcept:
    return <uint32_t>at[0] << 16 | <uint32_t>at[1] << 8 | at[2]


cdef inline uint32_t _32_bits(Bytes at) noexcept:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


cdef inline bytes _stamp(uint32_t stream_id):
    cdef unsigned char wire[4]
    _write_32(wire, stream_id)
    return PyBytes_FromStringAndSize(<char*>wire, 4)


cdef inline void _write_32(unsigned char* at, uint32_t value) noexcept:
    at[0], at[1], at[2], at[3] = value >> 24, value >> 16 & 0xFF, value >> 8 & 0xFF, value & 0xFF


# -- the loop: see relay.py -------------------------------------------------------------------------

def relay(LinkCore link not None, bytes data not None):
    """Take a batch from *link*; return how many bytes were used (`relay.relay`)."""
    cdef HubCore hub = link.hub
    cdef Batch batch = hub.batch
    cdef dict streams = link.streams
    cdef Bytes base = <Bytes>PyBytes_AS_STRING(data)
    cdef Bytes at
    cdef Py_ssize_t limit = hub.frame_limit
    cdef Py_ssize_t position = 0, stop, size, end_of_data = len(data)
    cdef long frames = 0, thought = 0
    cdef long action
    cdef uint32_t stream_id
    cdef int word, last_word = -1
    cdef object key, word_key = None
    cdef PyObject* found
    cdef tuple leg
    cdef LinkCore peer
    cdef CallCore call
    cdef CreditCore credit
    cdef list flushing = []
    try:
        while end_of_data - position >= HEAD_SIZE:
            at = base + position
            size = _24_bits(at)
            stop = position + 3 + size
            if stop > end_of_data or size < 6 or size > limit:
                break
            frames += 1
            stream_id = _32_bits(at + 3)
            word = at[7] << 8 | at[8]
            key = stream_id
            found = PyDict_GetItem(streams, key)
            if found is not NULL:
                leg = <tuple?>found
                if word != last_word:
                    word_key, last_word = word, word
                peer = <LinkCore?>PyTuple_GET_ITEM(leg, 0)
                found = PyDict_GetItem(<object>PyTuple_GET_ITEM(leg, 2), word_key)
                if found is not NULL:
                    action = PyLong_AsLong(<object>found)
                    # `congested` is read once per batch and peer.
                    if (
                        action <= ITEM_UP
                        and (peer.place >= 0 or PyList_GET_SIZE(peer.out) or not peer.congested)
                        and (
                            not word & METADATA
                            or (size >= 9 and <Py_ssize_t>_24_bits(at + 9) <= size - 9)
                        )
                    ):
                        call = <CallCore?>PyTuple_GET_ITEM(leg, 3)
                        if action:
                            credit = call.down if action == ITEM else call.up
                            if credit.left:
                                batch.note(peer, position, stop, _stamp_of(leg), 0)
                                credit.left -= 1
                                credit.bytes += size
                                position = stop
                                continue
                        else:
                            batch.note(peer, position, stop, _stamp_of(leg), 0)
                            if type(call) is hub.call_class:
                                _forget(call)
                            else:
                                call.forget()
                            call.counters.ok += 1
                            position = stop
                            continue
                thought += 1
                batch.hand_over(base, flushing)
                link.think(data, position, stop, word, leg)
            elif (
                FIRST_REQUEST <= word <= LAST_REQUEST
                and stream_id & 1
                and stream_id <= MAX_ID
                and _open_call(link, hub, batch, base, position, stop, stream_id, key, word)
            ):
                position = stop
                continue
            else:
                thought += 1
                batch.hand_over(base, flushing)
                link.take_frame(data[position + 3 : stop])
            if not link.open:  # what it sent behind its end reaches nobody
                position = end_of_data
                break
            position = stop
    finally:
        batch.hand_over(base, flushing)
    counters = hub.counters
    counters.frames_in += frames
    counters.frames_out += frames - thought
    for peer in flushing:
        peer.transport.flush()
    return position


cdef inline Bytes _stamp_of(tuple leg):
    return <Bytes>PyBytes_AS_STRING(<object>PyTuple_GET_ITEM(leg, 1))


# -- opening plain requests: see opening.py ---------------------------------------------------------

cdef bint _open_call(
    LinkCore link,
    HubCore hub,
    Batch batch,
    Bytes base,
    Py_ssize_t position,
    Py_ssize_t stop,
    uint32_t stream_id,
    object key,
    int word,
) except -1:
    cdef object routes = link.routes
    cdef int kind = word >> 10
    cdef Py_ssize_t offset, begin, end, routing_end, rest
    cdef uint32_t deadline = 0, initial, granted, provider_id, wire_granted = 0
    cdef RouteCore route
    cdef LinkCore provider
    cdef CallCore call
    cdef PyObject* found
    cdef set bucket
    cdef bytes stamp
    if routes is None or not word & METADATA or word & FLAGS_BUT_METADATA:
        return False
    offset = position + (HEAD_SIZE if kind < REQUEST_STREAM else HEAD_SIZE + 4)
    begin = offset + 3
    if begin > stop:
        return False
    end = begin + _24_bits(base + offset)
    if end > stop or end < begin + 4 or base[begin] != ROUTING_ID:
        return False
    routing_end = begin + 4 + _24_bits(base + begin + 1)
    rest = end - routing_end
    if rest:
        if rest != DEADLINE_SIZE or memcmp(
            PyBytes_AS_STRING(DEADLINE_ENTRY), base + routing_end, DEADLINE_SIZE - 4
        ):
            return False
        deadline = _32_bits(base + end - 4)
    found = PyDict_GetItem(
        routes, PyBytes_FromStringAndSize(<char*>base + begin + 4, routing_end - begin - 4)
    )
    if found is NULL:
        return False
    route = <RouteCore?>found
    if route.is_budgeted or not link.requests_left or key in link.held:
        return False
    provider = route.only
    if provider is None:
        if PyTuple_GET_SIZE(route.equals):
            provider = _choose(hub, route.equals)
        else:
            provider = link.choose(route)
        if provider is None:
            return False
    if (
        provider.takes is not link.sends
        or not provider.accepting
        or provider.next_id > MAX_ID
    ):
        return False
    provider_id = provider.next_id
    provider_key = provider_id
    if provider_key in provider.streams:  # after the ids have wrapped
        return False
    stamp = _stamp(provider_id)
    if kind == REQUEST_RESPONSE:
        bucket = _bucket(hub, deadline) if rest else hub.default_bucket
        call = <CallCore>tp_new_of(<PyTypeObject*>hub.call_class)(
            <PyTypeObject*>hub.call_class, NOTHING, NULL
        )
        call.caller = link
        call.caller_id = stream_id
        call.provider = provider
        call.provider_id = provider_id
        call.kind = kind
        call.counters = route.counters
        call.bucket = bucket
        PySet_Add(bucket, call)
        PyDict_SetItem(link.streams, key, (provider, stamp, CALLER_WAITS, call))
        PyDict_SetItem(
            provider.streams,
            provider_key,
            (link, PyBytes_FromStringAndSize(<char*>base + position + 3, 4), RESPONSE, call),
        )
        provider.in_flight += 1
    elif kind == REQUEST_FNF:
        route.counters.ok += 1
    else:
        initial = _32_bits(base + position + HEAD_SIZE)
        if not 1 <= initial <= MAX_ID:
            return False
        granted = link.open_items(
            stream_id, provider, provider_id, kind, route, initial, deadline if rest else None
        )
        if granted != initial:  # the consumer asks for more than the window
            _write_32(<unsigned char*>&wire_granted, granted)
    link.requests_left -= 1
    route.counters.started += 1
    provider.next_id += 2
    batch.note(provider, position, stop, <Bytes>PyBytes_AS_STRING(stamp), wire_granted)
    return True


cdef set _bucket(HubCore hub, uint32_t deadline_ms):
    """Return the wheel's set for a deadline in *deadline_ms*."""
    if deadline_ms != hub.deadline_ms:
        hub.deadline_bucket = hub.wheel.bucket(hub.now + deadline_ms * 0.001)
        hub.deadline_ms = deadline_ms
    return hub.deadline_bucket


cdef LinkCore _choose(HubCore hub, tuple equals):
    """Return one of *equals* by power of two choices (`selection.choose_equal`)."""
    cdef unsigned long long draw = hub.draw(64)
    cdef Py_ssize_t count = PyTuple_GET_SIZE(equals)
    cdef Py_ssize_t one = (draw & 0xFFFFFFFF) % count
    cdef Py_ssize_t other = (draw >> 32) % (count - 1)
    cdef LinkCore first = <LinkCore?>PyTuple_GET_ITEM(equals, one)
    cdef LinkCore second = <LinkCore?>PyTuple_GET_ITEM(
        equals, other if other < one else other + 1
    )
    return second if second.in_flight < first.in_flight else first
