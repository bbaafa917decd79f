"""From a data set's files to one table: joined, in order of time, with the columns that its card speaks of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

from recspect.errors import DataError


def kuairand_pure(folder: Path) -> pl.DataFrame:
    """Exposures with the features of user and video, by time."""
    log = _table(folder, "log_20220425_20220508")
    # Hours of the day in Beijing, where the users are; the log's own `hourmin` disagrees with time_ms by up to two hours.
    hour = ((pl.col("time_ms") // 3_600_000 + 8) % 24).cast(pl.Int8).alias("hour")
    users = _table(folder, "user_features")
    videos = _table(folder, "item_features")
    videos = videos.drop([column for column in videos.columns if column in ("upload_dt_parsed", "upload_date")])
    # follow_user_num stands in both tables: whom a user follows, and how many followed after a video.
    videos = videos.rename({column: f"video_{column}" for column in videos.columns
                            if column in users.columns or (column in log.columns and column != "video_id")})
    return (
        log.sort("time_ms", maintain_order=True).with_columns(hour)
        .join(users.with_columns(pl.col("user_id").cast(log.schema["user_id"])), on="user_id", how="left",
              maintain_order="left")
        .join(videos.with_columns(pl.col("video_id").cast(log.schema["video_id"])), on="video_id", how="left",
              maintain_order="left")
    )


def movielens_100k(folder: Path) -> pl.DataFrame:
    """Ratings with the features of user and film, by time."""
    ratings, users, films = (_atomic(folder / f"ml-100k.{part}") for part in ("inter", "user", "item"))
    films = films.with_columns(pl.col("release_year").cast(pl.Int32, strict=False))
    return (
        ratings.cast({"user_id": pl.Int32, "item_id": pl.Int32, "rating": pl.Float32, "timestamp": pl.Int64})
        .sort("timestamp", maintain_order=True)
        .join(users.cast({"user_id": pl.Int32, "age": pl.Int8}), on="user_id", how="left", maintain_order="left")
        .join(films.cast({"item_id": pl.Int32}), on="item_id", how="left", maintain_order="left")
    )


def movielens_latest_small(folder: Path) -> pl.DataFrame:
    """Ratings with title, year and genres of the film, by time."""
    films = _table(folder, "movies").with_columns(
        pl.col("title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Int32).alias("release_year"))
    ratings = _table(folder, "ratings").sort("timestamp", maintain_order=True)
    return ratings.join(films.with_columns(pl.col("movieId").cast(ratings.schema["movieId"])), on="movieId", how="left",
                        maintain_order="left")


def open_bandit(folder: Path) -> pl.DataFrame:
    """Slots shown under both policies with the item's features, by time."""
    items = _table(folder, "item_context_all").with_columns(pl.col("item_id").cast(pl.Int16))
    logs = []
    for policy in ("bts", "random"):
        log = _table(folder, f"{policy}_all").with_columns(pl.col("item_id").cast(pl.Int16), policy=pl.lit(policy))
        affinities = sorted((column for column in log.columns if column.startswith("user-item_affinity_")),
                            key=lambda column: int(column.rsplit("_", 1)[1]))
        # of 80 affinities, one per item, only that to the item shown is a feature of the row
        logs.append(log.with_columns(affinity=pl.concat_list(affinities).list.get(pl.col("item_id"))).drop(affinities))
    return (
        pl.concat(logs)
        .with_columns(pl.col("timestamp").str.to_datetime(time_unit="us", time_zone="UTC").dt.replace_time_zone(None))
        .sort("timestamp", maintain_order=True)
        .join(items, on="item_id", how="left", maintain_order="left")
    )


def criteo(folder: Path) -> pl.DataFrame:
    """Impressions in the order of the log, with the row's number as time."""
    return _table(folder, "criteo").with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))


def uci_bank(folder: Path) -> pl.DataFrame:
    """Calls, as published."""
    return _table(folder, "bank_full")


def oulad(folder: Path) -> pl.DataFrame:
    """Enrolments with the course's length, and whether they were passed."""
    keys = ["code_module", "code_presentation"]
    return (
        _table(folder, "studentInfo")
        .with_columns(
            pl.col("final_result").is_in(["Pass", "Distinction"]).cast(pl.Int8).alias("passed"),
            pl.concat_str(keys, separator="-").alias("course"),
            # a spreadsheet turned the band 10-20% into the twentieth of October; the original writes "10-20"
            pl.col("imd_band").replace({"20-Oct": "10-20%", "10-20": "10-20%"}),
        )
        .join(_table(folder, "courses"), on=keys, how="left", maintain_order="left")
    )


def complete_journey(folder: Path) -> pl.DataFrame:
    """Products in baskets with what is known of product and household, by time."""
    at = pl.col("transaction_timestamp")
    return (
        _table(folder, "transactions")
        .sort("transaction_timestamp", maintain_order=True)
        .with_columns((pl.col("coupon_disc") > 0).cast(pl.Int8).alias("coupon"), (pl.col("retail_disc") > 0).cast(pl.Int8).alias("discount"),
                      at.dt.weekday().alias("weekday"), at.dt.hour().alias("hour"))
        .join(_table(folder, "products"), on="product_id", how="left", maintain_order="left")
        .join(_table(folder, "demographics"), on="household_id", how="left", maintain_order="left")
    )


TABLES: dict[str, Callable[[Path], pl.DataFrame]] = {
    "kuairand-pure": kuairand_pure,
    "movielens-100k": movielens_100k,
    "movielens-latest-small": movielens_latest_small,
    "open-bandit": open_bandit,
    "criteo": criteo,
    "uci-bank": uci_bank,
    "oulad": oulad,
    "complete-journey": complete_journey,
}
"""What makes each data set's table from its folder."""


def _table(folder: Path, name: str) -> pl.DataFrame:
    """A file of the folder, Parquet or CSV.

    Raises:
        DataError: It cannot be read.
    """
    path = folder / f"{name}.parquet"
    try:
        if path.is_file():
            return pl.read_parquet(path)
        path = folder / f"{name}.csv"
        return pl.read_csv(path, infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} is damaged or cut short: {str(error).splitlines()[0]}",
                        hint="remove it, so that it is fetched again, or copy it anew") from error


def _atomic(path: Path) -> pl.DataFrame:
    """A file of RecBole's: tab-separated text, column names followed by `:type`."""
    try:
        table = pl.read_csv(path, separator="\t", quote_char=None, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} is damaged or cut short: {str(error).splitlines()[0]}",
                        hint="remove its folder, so that it is fetched again") from error
    return table.rename({column: column.split(":")[0] for column in table.columns})
