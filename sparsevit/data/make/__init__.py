"""Small data sets in the formats of real ones, for trying things out: `python -m sparsevit.data.make`.

Images are drawn scenes and shapes, on and of crops of the photographs and textures that scikit-image
and scikit-learn ship; labels are exact, since the same outline draws both. What they are for is the
whole way from files to a number, not the number.
"""
