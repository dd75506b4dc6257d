"""An epoch that a server holds twice counts once: the latest, whichever way it is read."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from test_courier import a_spool, epoch
from tracked import history, new_name, start_of

from analysis import load_study
from galaxy_mlflow.courier import Courier
from galaxy_mlflow.spool import Event, Kind
from galaxy_mlflow.tracking import MlflowStore


def test_of_an_epoch_logged_twice_the_latest_counts(store: MlflowStore, tmp_path: Path) -> None:
    name = new_name()
    with a_spool(tmp_path / "spool", start_of(name)) as spool:
        spool.append(epoch(0, loss=0.5))
        spool.append(epoch(1, loss=0.4))
        courier = Courier(spool, store)
        courier.deliver()
    assert courier.run is not None
    for when, loss in ((900, 0.3), (5000, 0.9)):  # requests of other attempts, under way meanwhile
        again = Event(Kind.EPOCH, when, epoch=1, metrics={"train_loss": loss})
        store.send_epochs(courier.run.run_id, [again], {})
    assert len(history(store, courier.run.run_id, "train_loss")) == 4
    found = load_study(name, store.uri).history("train_loss")
    pd.testing.assert_series_equal(
        found["value"], pd.Series([0.5, 0.9], name="value"), check_index=False
    )
    assert found["epoch"].tolist() == [0, 1]
