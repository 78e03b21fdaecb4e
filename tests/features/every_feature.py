"""A DAG file, and a script, whose functions use every feature of Python that looks for something in their module.

Each function returns True, or an object whose ``holds()`` is True wherever it has come to.
"""

from __future__ import annotations

import abc
import collections
import contextvars
import copy
import dataclasses
import enum
import functools
import inspect
import io
import logging
import multiprocessing
import pdb
import pickle
import sys
import threading
import traceback
import typing
import warnings
import weakref
from pathlib import Path

import handoff_mpi
from handoff_mpi import DAG, task

FEATURES: list[typing.Any] = []
SCALE = 3
STATE: dict[str, int] = {"calls": 0}
LOCK = threading.RLock()
LOCAL = threading.local()
VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("VARIABLE", default=7)
LOG = logging.getLogger(__name__)
WEAK: weakref.WeakKeyDictionary[typing.Any, str] = weakref.WeakKeyDictionary()
T = typing.TypeVar("T")
UserId = typing.NewType("UserId", int)
Point = collections.namedtuple("Point", "x y")
UNUSED = [1]
counter = 0


def feature(function):
    """Have the DAG call this function."""
    FEATURES.append(function)
    return function


def scaled(x):
    return x * SCALE


class Holding:
    """Values of these classes are checked where they have come to."""

    def holds(self):
        return scaled(1) == 3


class Shape(Holding):
    kinds: typing.ClassVar[dict[str, type]] = {}

    def __init_subclass__(cls, *, kind, **options):
        super().__init_subclass__(**options)
        Shape.kinds[kind] = cls


class Square(Shape, kind="square"):
    class Side:
        length = 2

        def __eq__(self, other):
            return type(other) is Square.Side

        __hash__ = None

    def holds(self):
        return super().holds() and Shape.kinds["square"] is Square and self.Side() == Square.Side()


class Colour(enum.Enum):
    RED = 1
    BLUE = 2

    def holds(self):
        return self is type(self).RED and self is not type(self).BLUE


class Rights(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()

    def holds(self):
        return self == Rights.READ | Rights.WRITE


@dataclasses.dataclass(frozen=True)
class Frozen(Holding):
    a: int
    b: tuple[int, ...] = ()

    def holds(self):
        return self == Frozen(1, (2,)) and hash(self) == hash(Frozen(1, (2,)))


@dataclasses.dataclass(slots=True)
class Slotted:
    a: int = 1

    def holds(self):
        return not hasattr(self, "__dict__") and dataclasses.replace(self, a=2) == Slotted(2)


class Record(typing.NamedTuple):
    a: int
    b: str = "b"

    def holds(self):
        return self == Record(1) and self._fields == ("a", "b")


class Meta(type):
    def __new__(cls, name, bases, contents):
        contents["doubled"] = 2 * contents["single"]
        return super().__new__(cls, name, bases, contents)

    @property
    def described(cls):
        return f"{cls.__name__} {cls.doubled}"


class WithMeta(Holding, metaclass=Meta):
    single = 2

    def holds(self):
        return super().holds() and WithMeta.described == "WithMeta 4"


class Base(abc.ABC):
    @abc.abstractmethod
    def area(self): ...


class Concrete(Base):
    def area(self):
        return 1

    def holds(self):
        return isinstance(self, Base) and issubclass(Concrete, Base)


@typing.runtime_checkable
class HasArea(typing.Protocol):
    def area(self): ...


class Box(typing.Generic[T]):
    def __init__(self, item: T):
        self.item = item

    def holds(self):
        return self.item == 1 and Box[int].__origin__ is Box


class Positive:
    def __set_name__(self, owner, name):
        self.name = f"_{name}"

    def __get__(self, instance, owner=None):
        return self if instance is None else getattr(instance, self.name)

    def __set__(self, instance, value):
        if value <= 0:
            raise ValueError(self.name)
        setattr(instance, self.name, value)


class Model(Holding):
    size = Positive()
    made = 0

    def __init__(self, size=2):
        self.size = size
        Model.made += 1

    @property
    def double(self):
        return 2 * self.size

    @functools.cached_property
    def answer(self):
        return 42

    @functools.cache  # noqa: B019
    def cached(self, x):
        return [x, SCALE]

    @functools.singledispatchmethod
    def told(self, x):
        return "object"

    @told.register
    def _(self, x: int):
        return "int"

    @classmethod
    def make(cls):
        return cls(3)

    @staticmethod
    def plus(x):
        return x + SCALE

    tripled = functools.partialmethod(lambda self, factor: factor * self.size, 3)

    def holds(self):
        told = self.told(1), self.told("")
        return (self.answer, self.double, self.cached(1), told) == (42, 4, [1, 3], ("int", "object"))


class Sentinel:
    def __reduce__(self):
        return "MISSING"


MISSING = Sentinel()


class Trouble(Exception):
    def __init__(self, place, why):
        super().__init__(place, why)
        self.why = why

    def holds(self):
        return self.why == "because"


@functools.cache
def table():
    return list(range(10))


@functools.singledispatch
def area_of(shape):
    return 0


@area_of.register(Square)
def _(shape):
    return shape.Side.length**2


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2
    DEFAULT = 1


class Planet(enum.Enum):
    EARTH = (1.0, 2.0)
    MARS = (3.0, 4.0)

    def __init__(self, mass, radius):
        self.mass, self.radius = mass, radius

    def holds(self):
        return self is Planet.MARS and self.mass * self.radius == 12


class Named(enum.Enum):
    def __new__(cls, value, label):
        made = object.__new__(cls)
        made._value_, made.label = value, label
        return made

    ONE = 1, "one"
    TWO = 2, "two"


class Access(enum.IntFlag):
    READ = enum.auto()
    WRITE = enum.auto()
    BOTH = READ | WRITE


class Operation(enum.Enum):
    """Its values are functions, which a class body takes for methods unless they are marked (from Python 3.11 on)."""

    if sys.version_info >= (3, 11):
        TRIPLE = enum.member(lambda x: scaled(x))
        SQUARE = enum.member(Square)
    HALF = 2

    def holds(self):
        return self is Operation.HALF and (sys.version_info < (3, 11) or Operation["TRIPLE"].value(1) == 3)


class Proxy(Holding):
    @property
    def __class__(self):
        return int


class Registry(type):
    known: typing.ClassVar[dict[str, type]] = {}

    def __new__(cls, name, bases, contents, **options):
        return super().__new__(cls, name, bases, contents)

    def __init__(cls, name, bases, contents, **options):
        super().__init__(name, bases, contents)
        Registry.known[name] = cls


class First(metaclass=Registry, key=1):
    other = None


class Second(First, key=2):
    base = First

    def holds(self):
        return Registry.known == {"First": First, "Second": Second} and First.other is Second is type(self)


First.other = Second
First.own = First()


class Strict(abc.ABCMeta):
    def __new__(cls, name, bases, contents, *, needed):
        return super().__new__(cls, name, bases, {**contents, "needed": needed})


class Checked(metaclass=Strict, needed=3):
    @abc.abstractmethod
    def value(self): ...


class Whole(Checked, needed=4):
    def value(self):
        return self.needed

    def holds(self):
        return self.value() == 4 and isinstance(self, Checked) and isinstance(1, Checked)


Checked.register(int)


class Hidden:
    __slots__ = ("__secret", "__weakref__")

    def __init__(self):
        self.__secret = 5

    def holds(self):
        return self.__secret == 5 and not hasattr(self, "__dict__") and weakref.ref(self)() is self


class Guarded:
    lock = threading.Lock()

    def holds(self):
        with self.lock:
            return True


GUARDED = Guarded()
READY = threading.Event()
CONDITION = threading.Condition()
LOOP: dict[str, typing.Any] = {}
LOOP["itself"] = LOOP
BOUND = Square().holds
PARTIAL = functools.partial(scaled, 4)
THIS = sys.modules[__name__]


def logged(function):
    @functools.wraps(function)
    def wrapper(*args):
        wrapper.calls += 1
        return function(*args)

    wrapper.calls = 0
    return wrapper


@logged
def decorated(x):
    return x + SCALE


class Application:
    def __init__(self):
        self.functions = {}

    def register(self, function):
        @functools.wraps(function)
        def wrapper(*args):
            return self.call(function, *args)

        self.functions[function.__name__] = wrapper
        return wrapper

    def call(self, function, *args):
        return function(*args), sorted(self.functions)


APPLICATION = Application()


@APPLICATION.register
def registered(x):
    return x + SCALE


@APPLICATION.register
def registered_too(x):
    return registered(x)[0], APPLICATION.functions["registered"] is registered


def make_adder(n, memo=STATE):
    def add(x):
        return x + n + SCALE

    return add


ADD = make_adder(1)


def __getattr__(name):
    if name == "computed":
        return 5
    raise AttributeError(name)


def here():
    """Return the module of these functions, as Python finds it."""
    return sys.modules[__name__]


def survives(thing):
    """Whether pickle gives the very same object back."""
    return pickle.loads(pickle.dumps(thing)) is thing


# -- values ----------------------------------------------------------------------------------------------


@feature
def classes():
    return Square()


@feature
def nested_classes():
    return survives(Square.Side) and survives(Square) and Square.Side.__qualname__ == "Square.Side"


@feature
def enums():
    return Colour.RED if survives(Colour) and survives(Colour.BLUE) and Colour(2) is Colour.BLUE else False


@feature
def enums_with_attributes():
    is_good = survives(Planet.EARTH) and survives(Named.ONE) and (Named(2), Named.TWO.label) == (Named.TWO, "two")
    return Planet.MARS if is_good else False


@feature
def enums_with_aliases():
    return (Level.DEFAULT is Level.LOW, Access.BOTH == Access.READ | Access.WRITE, Level["DEFAULT"].name) == (
        True,
        True,
        "LOW",
    )


@feature
def functions_that_an_object_registers():
    return registered_too(1) == ((4, True), ["registered", "registered_too"]) and survives(registered)


@feature
def enums_of_functions():
    return Operation.HALF if survives(Operation) and Operation.HALF.holds() else False


@feature
def classes_that_claim_to_be_others():
    return isinstance(Proxy(), int) and survives(Proxy) and type(Proxy()) is Proxy


@feature
def classes_that_refer_to_each_other():
    return Second() if survives(First) and First.own.__class__ is First and LOOP["itself"] is LOOP else False


@feature
def metaclasses_of_abstract_classes():
    return Whole()


@feature
def slots():
    return Hidden() if survives(Hidden) else False


@feature
def locks():
    with CONDITION:
        return Guarded() if GUARDED.holds() and not READY.is_set() else False


@feature
def callables():
    return BOUND() and PARTIAL() == 12 and THIS is here() and THIS.scaled is scaled


@feature
def flags():
    return Rights.READ | Rights.WRITE if survives(Rights) else False


@feature
def dataclasses_frozen():
    return Frozen(1, (2,)) if survives(Frozen) else False


@feature
def dataclasses_with_slots():
    return Slotted() if survives(Slotted) else False


@feature
def dataclasses_made_in_functions():
    @dataclasses.dataclass
    class Local:
        a: int
        b: typing.ClassVar[int] = 2
        c: list[Model] = dataclasses.field(default_factory=list)

        def holds(self):
            return [each.name for each in dataclasses.fields(self)] == ["a", "c"]

    return Local(1)


@feature
def named_tuples():
    return Record(1) if survives(Record) and survives(Point) and Point(1, 2)._asdict() == {"x": 1, "y": 2} else False


@feature
def metaclasses():
    return WithMeta() if survives(WithMeta) and survives(Meta) else False


@feature
def subclass_hooks():
    return Shape.kinds == {"square": Square} and survives(Shape)


@feature
def abstract_classes():
    try:
        Base()
    except TypeError:
        return Concrete()
    return False


@feature
def protocols():
    return isinstance(Concrete(), HasArea) and not isinstance(Model(), HasArea)


@feature
def generics():
    return Box(1) if survives(Box) and survives(T) and T.__module__ == __name__ else False


@feature
def new_types():
    return survives(UserId) and UserId(3) == 3 and UserId.__supertype__ is int


@feature
def descriptors():
    try:
        Model(-1)
    except ValueError:
        return Model()
    return False


@feature
def methods():
    return (Model.make().size, Model.plus(1), Model().tripled()) == (3, 4, 6)


@feature
def cached_properties():
    model = Model()
    return model if model.answer == 42 and "answer" in vars(model) else False


@feature
def cached_methods():
    model = Model()
    return model.cached(1) is model.cached(1) and survives(Model.cached)


@feature
def caches():
    return table() is table() and survives(table) and table.cache_info().misses == 1


@feature
def single_dispatch():
    return (area_of(Square()), area_of(1), survives(area_of)) == (4, 0, True) and Square in area_of.registry


@feature
def closures():
    return ADD(1) == 5 and make_adder(2)(1) == 6


@feature
def functions_as_values():
    return Called(make_adder(2), scaled)


class Called:
    def __init__(self, adder, helper):
        self.adder, self.helper = adder, helper

    def holds(self):
        return (self.adder(1), self.helper(2), self.helper is scaled) == (6, 6, True)


@feature
def decorators():
    before = decorated.calls
    return decorated(1) == 4 and decorated.calls == before + 1 and survives(decorated)


@feature
def tasks_called_within_functions():
    return doubled(2) == 4 and survives(doubled)


@feature
def sentinels():
    return survives(MISSING) and copy.deepcopy(MISSING) is MISSING


@feature
def exceptions():
    try:
        raise Trouble("here", "because")
    except Trouble as error:
        return pickle.loads(pickle.dumps(error))


# -- pickle, inspect, typing ---------------------------------------------------------------------------


@feature
def pickle_files():
    file = Path(handoff_mpi.current_task().scratch) / "pickled"
    with file.open("wb") as out:
        pickle.dump([Model, Colour.RED, Model(), scaled], out)
    with file.open("rb") as back:
        kind, colour, model, function = pickle.load(back)
    return (kind is Model, colour is Colour.RED, type(model) is Model, function is scaled) == (True,) * 4


@feature
def type_hints():
    hints = typing.get_type_hints(Frozen), typing.get_type_hints(Record)
    return hints == ({"a": int, "b": tuple[int, ...]}, {"a": int, "b": str})


@feature
def sources():
    text = inspect.getsource(scaled), inspect.getsource(Model).partition("\n")[0]
    is_here = inspect.getmodule(scaled) is here() and inspect.getmodule(Model) is here()
    return is_here and text == ("def scaled(x):\n    return x * SCALE\n", "class Model(Holding):")


@feature
def names_of_files():
    files = {scaled.__code__.co_filename, inspect.getfile(Model), here().__file__, __file__}
    return len(files) == 1 and Path(__file__).is_absolute() and Path(__file__).name == "every_feature.py"


@feature
def tracebacks():
    try:
        decorated("text")
    except TypeError as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return (frame.filename, frame.name, frame.line) == (__file__, "decorated", "return x + SCALE")


@feature
def warnings_shown():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("careful", stacklevel=1)
    return [each.filename for each in caught] == [__file__]


@feature
def logging_records():
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    LOG.addHandler(handler)
    LOG.warning("said")
    LOG.removeHandler(handler)
    (record,) = records
    return (record.name, record.pathname, record.funcName) == (__name__, __file__, "logging_records")


@feature
def debuggers():
    shown = io.StringIO()
    debugger = pdb.Pdb(stdin=io.StringIO("l\nc\n"), stdout=shown, nosigint=True, readrc=False)
    debugger.use_rawinput = False
    debugger.set_trace()
    return "debugger.set_trace()" in shown.getvalue() and __file__ in shown.getvalue()


@feature
def attributes_of_the_module():
    """A global that no function refers to is not sent, and the module gives it when asked."""
    return here().computed == 5 and here().UNUSED == [1]


# -- state -------------------------------------------------------------------------------------------------


@feature
def global_state():
    global counter
    before = counter, STATE["calls"]
    counter += 1
    STATE["calls"] += 1
    seen = here().counter, here().STATE["calls"]
    return seen == (before[0] + 1, before[1] + 1) and here().__dict__ is globals()


@feature
def class_state():
    before = Model.made
    return Model().made == before + 1 and here().Model.made == before + 1


@feature
def threads():
    seen = []

    def add():
        with LOCK:
            LOCAL.value = len(seen)
            seen.append(scaled(LOCAL.value))

    for thread in [threading.Thread(target=add) for _ in range(3)]:
        thread.start()
        thread.join()
    return seen == [0, 3, 6] and not hasattr(LOCAL, "value")


@feature
def context_variables():
    token = VARIABLE.set(8)
    value = VARIABLE.get()
    VARIABLE.reset(token)
    return (value, VARIABLE.get()) == (8, 7)


@feature
def weak_references():
    model = Model()
    WEAK[model] = "here"
    reference = weakref.ref(model)
    return WEAK[model] == "here" and reference() is model and weakref.proxy(model).size == 2


# -- other processes ---------------------------------------------------------------------------------


UNSET = object()
NODE = Model()
NODES, INDEX = [NODE], {"node": NODE}
ALIAS = INDEX
LOCKS = {"lock": LOCK}


@feature
def sentinel_default(x=UNSET):
    return x is UNSET


def is_unset(x):
    return x is UNSET


@feature
def sentinel_in_a_closure():
    return IS_UNSET()


def _sentinel_closure(x):
    return lambda: x is UNSET


IS_UNSET = _sentinel_closure(UNSET)


class WithDefault:
    default = UNSET
    other = NODES


@feature
def sentinel_in_a_class():
    return WithDefault.default is UNSET and WithDefault().other is NODES


@feature
def object_in_globals():
    NODES.append(1)
    return NODES[0] is NODE and INDEX["node"] is NODE and ALIAS is INDEX and NODES.pop() == 1


class Parcel(Holding):
    def __init__(self, content):
        self.content = content

    def holds(self):
        return self.content is UNSET


@feature
def sentinel_in_a_value():
    return Parcel(UNSET)


@feature
def lock_in_globals():
    return LOCKS["lock"] is LOCK


@feature
def fork_pool():
    return _in_pool("fork")


@feature
def spawn_pool():
    return _in_pool("spawn")


@feature
def forkserver_pool():
    return _in_pool("forkserver")


@feature
def loky_pool():
    try:
        from joblib.externals.loky import ProcessPoolExecutor
    except ImportError:
        return True
    with ProcessPoolExecutor(1, timeout=10) as pool:
        return list(pool.map(scaled, [1, 2], timeout=30)) == [3, 6]


def is_there(model):
    return type(model) is Model and scaled(1) == 3 and table()[3] == 3


def _in_pool(method):
    with multiprocessing.get_context(method).Pool(1) as pool:
        model, is_good = pool.apply_async(Model).get(30), pool.map_async(is_there, [Model()]).get(30)
    return type(model) is Model and is_good == [True]


@task
def doubled(x):
    return 2 * x


def consumed(value):
    """Take the value of a feature where it has come to, another rank perhaps."""
    return (value is True or (value.holds() and type(value).__module__ == __name__)) or 1 / 0


with DAG("features") as dag:
    for each in FEATURES:
        value = task(max_retries=0)(each)()
        task(id=f"{each.__name__} consumed", max_retries=0)(consumed)(value)
    FEATURES.append(is_unset)
    task(max_retries=0)(is_unset)(UNSET)
    task(id="is_unset consumed", max_retries=0)(is_unset)(UNSET)

if __name__ == "__main__":
    results = handoff_mpi.execute(
        dag, isolation=sys.argv[1], run_dir=sys.argv[2], keep="all", check=False, results_on="all"
    )
    for each in FEATURES:  # on every rank
        value = results[each.__name__]
        kind = globals().get(type(value).__name__, object)
        assert isinstance(value, kind), f"a value of {each.__name__} is of a class of its own"
