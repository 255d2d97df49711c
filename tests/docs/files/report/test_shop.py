from shop.main import place_order


def test_an_order():
    assert place_order() == 1
