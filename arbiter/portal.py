"""For applications: async code from synchronous code, in every kind of worker. See docs/portal.md.

    from arbiter.portal import submit

    def view(request):
        prices = submit(fetch_prices())     # runs on the worker's event loop, meanwhile and afterwards
        ...
        return render(prices.result())      # or never ask

It is the one module of Arbiter that applications import. The supervisor must not: it needs no event loop.
"""

from arbiter.workers.portal import loop, submit

__all__ = ["loop", "submit"]
