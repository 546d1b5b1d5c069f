"""Results written by hand have as many images as suits a test, and no CIFAR-10 is read for them.

Only test_question.py asks how many images there should be.
"""
import pytest

from reproduction import now, question


@pytest.fixture(autouse=True, scope="module")
def _any_number_of_images(request):
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ != "test_question":
            patch.setitem(now.DOWNLOADED, "cifar10", "not here")
            patch.setattr(question, "images_asked", lambda limit, found: {})
            patch.setattr(question.attack_suite, "settings_of", lambda *_, **__: {}, raising=False)
        yield
