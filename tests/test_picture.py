"""Pictures obey geometry: what is drawn is where the camera says it is."""

import mujoco
import numpy as np
import pytest

from asap.camera import Camera
from asap.picture import COLLISION, Look, _Scene, posed, render, spheres, write_png

PLAIN = Look(samples=1, lights=1, floor=None)
RED, GREEN = "0.9 0.05 0.05 1", "0.05 0.9 0.05 1"


def scene(*bodies: str) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """A model with these bodies, each on three slides x, y, z, so that qpos is where they are."""
    slides = "".join(f'<joint type="slide" axis="{a}"/>' for a in ("1 0 0", "0 1 0", "0 0 1"))
    inside = "".join(f"<body>{slides}{geom}</body>" for geom in bodies)
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{inside}</worldbody></mujoco>")
    return model, posed(model, np.zeros(model.nq))


def ball(radius: float, rgba: str = RED, group: int = 2) -> str:
    return f'<geom type="sphere" size="{radius}" rgba="{rgba}" group="{group}"/>'


def drawn(model, data, camera, width, height, **kwargs) -> np.ndarray:
    """Which pixels differ from the empty picture."""
    look = kwargs.pop("look", PLAIN)
    full = render(model, data, camera, width, height, look=look, **kwargs)
    empty = render(model, data, camera, width, height, (), look=look)
    return (full != empty).any(axis=-1)


def test_a_sphere_covers_the_disc_that_perspective_says():
    model, data = scene(ball(0.3))
    camera = Camera(look_at_w=(0, 0, 0), elevation_deg=0.0, distance=2.0, fov_deg=40.0)
    mask = drawn(model, data, camera, 200, 160)
    # The outline is seen under asin(0.3 / 2) = 8.627 deg: tan = 0.15171. Half the picture, 80 px,
    # is tan(20 deg) = 0.36397, so the disc has radius 80 * 0.15171 / 0.36397 = 33.35 px.
    assert mask.sum() == pytest.approx(np.pi * 33.35**2, rel=0.01)
    rows, columns = np.nonzero(mask)
    assert rows.mean() + 0.5 == pytest.approx(80.0, abs=0.2)
    assert columns.mean() + 0.5 == pytest.approx(100.0, abs=0.2)
    assert columns.max() - columns.min() + 1 == pytest.approx(66.7, abs=1.5)


@pytest.mark.parametrize("azimuth_deg", [0.0, 37.0, 145.0, 270.0])
def test_a_moved_sphere_appears_where_project_says(azimuth_deg):
    model, _ = scene(ball(0.05))
    camera = Camera(look_at_w=(0.1, 0, 0.5), azimuth_deg=azimuth_deg, elevation_deg=-25, distance=2)
    for place in ([0.3, 0.1, 0.4], [-0.2, -0.25, 0.7], [0.0, 0.3, 0.3]):
        mask = drawn(model, posed(model, np.array(place)), camera, 240, 200)
        column, row, depth = camera.project(np.array(place), 240, 200)
        rows, columns = np.nonzero(mask)
        assert columns.mean() + 0.5 == pytest.approx(column, abs=0.7)
        assert rows.mean() + 0.5 == pytest.approx(row, abs=0.7)
        assert depth > 0


def test_up_is_up_and_left_is_left_when_looking_along_x():
    camera = Camera(look_at_w=(0, 0, 0), azimuth_deg=0.0, elevation_deg=0.0, distance=3.0)
    up, left = camera.project(np.array([[0, 0, 0.2], [0, 0.2, 0]]), 100, 100)
    assert up[1] < 50 and up[0] == pytest.approx(50)
    assert left[0] < 50 and left[1] == pytest.approx(50)
    np.testing.assert_allclose(camera.position_w, [-3, 0, 0], atol=1e-12)


def test_rays_are_the_inverse_of_project():
    camera = Camera(azimuth_deg=20.0, elevation_deg=-30.0)
    rays = camera.rays(12, 7)
    assert np.linalg.norm(rays, axis=1) == pytest.approx(1.0)
    pixels = camera.project(camera.position_w + 2.5 * rays, 12, 7)[:, :2]
    column, row = np.meshgrid(np.arange(12) + 0.5, np.arange(7) + 0.5)
    np.testing.assert_allclose(pixels, np.stack([column.ravel(), row.ravel()], 1), atol=1e-9)


def test_the_nearer_of_two_spheres_hides_the_other():
    model, _ = scene(ball(0.2, RED), ball(0.2, GREEN))
    camera = Camera(look_at_w=(0, 0, 0), azimuth_deg=0.0, elevation_deg=0.0)
    for red_x, nearer in ((-0.5, 0), (0.5, 1)):  # the camera stands at negative x
        data = posed(model, np.array([red_x, 0, 0, -red_x, 0, 0]))
        pixel = render(model, data, camera, 61, 61, look=PLAIN)[30, 30]
        assert pixel.argmax() == nearer, pixel


def test_only_the_chosen_geom_groups_are_drawn():
    model, data = scene(ball(0.2, RED, group=2), ball(0.3, GREEN, group=3))
    camera = Camera(look_at_w=(0, 0, 0))
    visual = drawn(model, data, camera, 80, 80)
    collision = drawn(model, data, camera, 80, 80, geom_groups=COLLISION)
    assert visual.sum() == pytest.approx(collision.sum() * (2 / 3) ** 2, rel=0.05)
    assert render(model, data, camera, 80, 80, COLLISION, look=PLAIN)[40, 40].argmax() == 1


def test_framing_shows_everything_and_wastes_nothing():
    model, _ = scene(ball(0.1), ball(0.25), ball(0.02))
    rng = np.random.default_rng(0)
    for aspect in (0.6, 1.0, 1.7):
        data = posed(model, rng.uniform(-0.6, 0.6, model.nq))
        height = 200
        width = round(aspect * height)
        camera = Camera.framing(*spheres(model, data), aspect=width / height, margin=1.0)
        mask = drawn(model, data, camera, width, height)
        rows, columns = np.nonzero(mask)
        gaps = [rows.min(), height - 1 - rows.max(), columns.min(), width - 1 - columns.max()]
        assert min(gaps) <= 2  # touches a side, and the area outside holds nothing:
        for center, radius in zip(*spheres(model, data), strict=True):
            seen = (center - camera.position_w) @ camera.axes.T
            half = np.radians(camera.fov_deg) / 2
            room = seen[2] * np.sin(half) - abs(seen[1]) * np.cos(half)
            assert room >= radius - 1e-9


def test_the_ghost_tints_what_is_behind_it_and_hides_behind_the_robot():
    model, data = scene(ball(0.2, RED))
    camera = Camera(look_at_w=(0, 0, 0), azimuth_deg=0.0, elevation_deg=0.0)
    alone = render(model, data, camera, 61, 61, look=PLAIN)
    in_front, behind = posed(model, np.array([-0.5, 0, 0])), posed(model, np.array([0.5, 0, 0]))
    tinted = render(model, data, camera, 61, 61, ghost=in_front, look=PLAIN)
    assert tinted[30, 30, 2] > alone[30, 30, 2] + 20  # bluer
    assert tinted[30, 30, 0] > 0.4 * alone[30, 30, 0]  # but the red sphere still shows through
    np.testing.assert_array_equal(
        render(model, data, camera, 61, 61, ghost=behind, look=PLAIN)[30, 30], alone[30, 30]
    )


def test_a_ghost_offset_is_the_same_as_a_moved_ghost():
    model, data = scene(ball(0.2, RED))
    camera = Camera(look_at_w=(0, 0, 0))
    offset = (0.1, 0.35, -0.2)
    moved = render(model, data, camera, 50, 60, ghost=posed(model, np.array(offset)))
    shifted = render(model, data, camera, 50, 60, ghost=data, ghost_offset_w=offset)
    np.testing.assert_allclose(moved.astype(int), shifted.astype(int), atol=1)


def test_a_shadow_darkens_the_floor_opposite_the_lamp_and_nothing_else():
    model, data = scene(ball(0.2))
    data = posed(model, np.array([0, 0, 0.6]))
    camera = Camera(look_at_w=(0, 0, 0.4), elevation_deg=-25.0, distance=4.0, fov_deg=45.0)
    with_ball = render(model, data, camera, 160, 160).astype(int).sum(axis=-1)
    empty = render(model, data, camera, 160, 160, ()).astype(int).sum(axis=-1)
    change = np.where(drawn(model, data, camera, 160, 160), 0, with_ball - empty)
    # The middle of the shadow lies on the line from the lamp through the ball, at z = 0.
    lamp = _Scene(model, data, (2,), camera, Look())._lamp_w(np.zeros(2))
    toward = np.array([0, 0, 0.6]) - lamp
    column, row, _ = camera.project(lamp - toward * lamp[2] / toward[2], 160, 160)
    rows, columns = np.nonzero(change < -40)
    assert len(rows) > 50
    assert np.hypot(rows.mean() + 0.5 - row, columns.mean() + 0.5 - column) < 3.0
    assert column > 84  # the lamp hangs on the left
    far = np.hypot(*(np.indices(change.shape) + 0.5 - np.array([row, column])[:, None, None])) > 45
    assert np.abs(np.where(far, change, 0)).max() <= 3


def test_casting_many_rays_gives_what_mj_ray_gives_one_by_one():
    model, data = scene(
        ball(0.2),
        '<geom type="capsule" size="0.1 0.2" group="2" euler="30 20 0"/>',
        '<geom type="box" size="0.1 0.3 0.2" group="2" euler="0 70 10"/>',
        '<geom type="cylinder" size="0.1 0.2" group="2" euler="0 10 40"/>',
    )
    rng = np.random.default_rng(1)
    data = posed(model, rng.uniform(-0.5, 0.5, model.nq))
    origin = np.array([2.0, -1.0, 0.5])
    rays = rng.normal(size=(2000, 3)) * 0.2 - origin / np.linalg.norm(origin)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    hits = _Scene(model, data, (2,), Camera(), PLAIN).cast(origin, rays)
    groups, geom, normal = (
        np.array([0, 0, 1, 0, 0, 0], np.uint8),
        np.zeros(1, np.int32),
        np.zeros(3),
    )
    for i, ray in enumerate(rays):
        distance = mujoco.mj_ray(model, data, origin, ray, groups, True, -1, geom, normal)
        assert hits.geom[i] == (geom[0] if distance >= 0 else -2)
        if distance >= 0:
            assert hits.distance[i] == distance
            np.testing.assert_array_equal(hits.normal[i], normal)
    assert 0.1 < (hits.geom >= 0).mean() < 0.9


def test_a_plane_in_the_model_is_drawn_as_the_floor_and_throws_no_shadow():
    xml = '<mujoco><worldbody><geom type="plane" size="5 5 1" group="{}"/><body><joint/>{}</body>'
    pictures = []
    for group in (0, 2):
        model = mujoco.MjModel.from_xml_string(
            (xml + "</worldbody></mujoco>").format(group, ball(0.2).replace("/>", ' pos="0 0 1"/>'))
        )
        pictures.append(render(model, posed(model, np.zeros(1)), Camera(), 60, 60))
    np.testing.assert_array_equal(*pictures)


def test_equal_input_gives_equal_bytes_and_does_not_change_the_data(tmp_path):
    model, data = scene(ball(0.2), ball(0.1, GREEN))
    before = data.qpos.copy(), data.geom_xpos.copy()
    for name in ("a.png", "b.png"):
        write_png(tmp_path / name, render(model, data, Camera(), 64, 48, ghost=data))
    np.testing.assert_array_equal(data.qpos, before[0])
    np.testing.assert_array_equal(data.geom_xpos, before[1])
    content = (tmp_path / "a.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content == (tmp_path / "b.png").read_bytes()


def test_more_samples_soften_edges_without_moving_them():
    model, data = scene(ball(0.3))
    camera = Camera(look_at_w=(0, 0, 0))
    hard = drawn(model, data, camera, 100, 100)
    fine = Look(samples=3, lights=1, floor=None)
    soft = drawn(model, data, camera, 100, 100, look=fine)
    assert (soft | ~hard).all()  # every pixel whose middle is hit is also drawn with more samples
    assert hard.sum() < soft.sum() < 1.15 * hard.sum()


def test_a_model_without_geoms_gives_an_empty_picture():
    model = mujoco.MjModel.from_xml_string("<mujoco><worldbody/></mujoco>")
    image = render(model, posed(model, np.zeros(0)), Camera(), 20, 10)
    assert image.shape == (10, 20, 3) and image.dtype == np.uint8
    assert image.min() > 180  # light background
