from shop import Line, Order, Session, engine, numbers_of_lines


def test_lines():
    with Session(engine) as session, session.begin():
        session.add_all(Order(lines=[Line(), Line()]) for _ in range(8))
    assert numbers_of_lines() == [2] * 8
