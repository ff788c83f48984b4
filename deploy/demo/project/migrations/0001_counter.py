"""The table of the visit counter, with its row."""

from typing import ClassVar

from django.db import migrations, models


def add_row(apps, schema_editor):
    apps.get_model("project", "Counter").objects.using(schema_editor.connection.alias).create(pk=1)


class Migration(migrations.Migration):
    initial = True
    dependencies: ClassVar = []
    operations: ClassVar = [
        migrations.CreateModel(
            name="Counter",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("total", models.PositiveBigIntegerField(default=0)),
            ],
        ),
        migrations.RunPython(add_row, migrations.RunPython.noop),
    ]
