"""The whole circle: show, collect, learn, build, judge, show again; and when it is time to learn anew."""
