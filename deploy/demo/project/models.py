"""One table with one row: how often the page was seen."""

from django.db import models, transaction
from django.db.models import F


class Counter(models.Model):
    total = models.PositiveBigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.total} visits"

    @classmethod
    def visit(cls) -> int:
        """The number of this visit. No two visits get the same one, whichever processes serve them."""
        with transaction.atomic():
            cls.objects.filter(pk=1).update(total=F("total") + 1)
            return cls.seen()

    @classmethod
    def seen(cls) -> int:
        """How many visits there have been."""
        return cls.objects.values_list("total", flat=True).get(pk=1)
