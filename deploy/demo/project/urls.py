"""Where each view is."""

from django.urls import path

from project import views

urlpatterns = [
    path("", views.page, name="page"),
    path("json", views.facts, name="json"),
    path("async", views.concurrent, name="async"),
    path("stream", views.stream, name="stream"),
    path("upload", views.upload, name="upload"),
    path("slow", views.slow, name="slow"),
]
