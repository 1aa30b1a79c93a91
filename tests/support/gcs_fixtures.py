"""What several tests of the source side need: a source in memory, a clock turned by hand."""

from ringfeedd.storage import PAGE_OBJECTS, ObjectInfo, SourceError
from ringfeedd.storage.retry import Backoff

QUICK = Backoff(max_attempts=3, base_s=0.001, max_s=0.002)


class ManualClock:
    """Sleeping moves it on; nobody waits."""

    def __init__(self):
        self.now, self.slept = 100.0, []

    def monotonic(self):
        return self.now

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


class ListedSource:
    """Names with made-up metadata, listed in the order in which they are given."""

    root = "mem://set"

    def __init__(self, names, *, crc32c=True, page=PAGE_OBJECTS, fails_after=None):
        self.names, self.crc32c, self.page, self.fails_after = names, crc32c, page, fails_after
        self.listed = []

    async def list_pages(self, prefix, _skipped=None):
        self.listed.append(prefix)
        names = [name for name in self.names if name.startswith(prefix)]
        for at in range(0, len(names), self.page):
            if self.fails_after is not None and at >= self.fails_after:
                raise SourceError("The listing broke off.", cause="reset", retryable=True)
            yield [self.info(name) for name in names[at : at + self.page]]

    def info(self, name):
        number = sum(name.encode(errors="replace"))
        return ObjectInfo(name, 10 * number, 7 + number, number * 977 if self.crc32c else None)

    async def read(self, name, generation):
        raise AssertionError(f"{name} was read")

    async def close(self):
        pass
