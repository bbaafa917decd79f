"""One Keras model with cross and dot layers of keras-rs, for every backend."""

import keras
import keras_rs
from movielens import FIELDS, tables


def trained():
    """(model, the vectors of its fields), trained by Keras on MovieLens-100K."""
    keras.utils.set_random_seed(2020)
    train, _, _, sizes = tables()
    inputs = {name: keras.Input((), dtype="int64", name=name) for name in FIELDS}
    vectors = [keras.layers.Embedding(sizes[name], 10)(inputs[name]) for name in FIELDS]
    joined = keras.layers.Concatenate()(vectors)
    cross = keras_rs.layers.FeatureCross()(joined)
    dot = keras_rs.layers.DotInteraction()(vectors)
    deep = keras.layers.Dense(64, "relu")(keras.layers.Concatenate()([cross, dot]))
    model = keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(deep))
    model.compile(keras.optimizers.Adam(3e-3), "binary_crossentropy")
    model.fit({name: train[name] for name in FIELDS}, train["label"], batch_size=1024, epochs=3, verbose=0)
    return model, vectors
