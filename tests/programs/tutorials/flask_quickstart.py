"""The pattern of Flask-SQLAlchemy's quick start: ``db.session``, removed when the request's context ends."""

from __future__ import annotations

from typing import Any

from flask import Flask, redirect, render_template_string, request, url_for
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import URL
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

LIST = "{% for gardener in gardeners %}{{ gardener.name }} <{{ gardener.mail }}>\n{% endfor %}"


def make(url: URL) -> tuple[Flask, Any]:
    """The application, and its database."""

    class Base(DeclarativeBase):
        """The declarative base of the application."""

    db = SQLAlchemy(model_class=Base)

    class Gardener(db.Model):  # type: ignore[name-defined,misc]
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column(unique=True)
        mail: Mapped[str]

    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = url.render_as_string(hide_password=False)
    db.init_app(app)
    with app.app_context():
        db.create_all()

    @app.get("/gardeners")
    def read_all() -> str:
        gardeners = db.session.execute(db.select(Gardener).order_by(Gardener.name)).scalars()
        return render_template_string(LIST, gardeners=gardeners)

    @app.post("/gardeners")
    def create() -> Any:
        gardener = Gardener(name=request.form["name"], mail=request.form["mail"])
        db.session.add(gardener)
        db.session.commit()
        return redirect(url_for("read", key=gardener.id))

    @app.get("/gardeners/<int:key>")
    def read(key: int) -> str:
        gardener = db.get_or_404(Gardener, key)
        return f"{gardener.name} <{gardener.mail}>"

    @app.post("/gardeners/<int:key>/delete")
    def delete(key: int) -> Any:
        db.session.delete(db.get_or_404(Gardener, key))
        db.session.commit()
        return redirect(url_for("read_all"))

    return app, db
